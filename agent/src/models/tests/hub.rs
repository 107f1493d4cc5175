//! The hub: what is fetched, how it is gone on with, and what is not believed.

use std::sync::Arc;

use nebula_core::runtime::RuntimeKind;
use nebula_core::token::Secret;
use serde_json::json;

use super::stand_in::{COMMIT, Fault, content, git_id, sha256};
use super::{World, spec, until, within};
use crate::models::{Kind, ModelError, Models, repository};
use crate::progress::Reporter;

const SIZE: usize = 50_000;

/// A small repository with one large file.
async fn world() -> World {
    let world = World::new().await;
    world.stand_in.file("config.json", b"{}", false);
    world.stand_in.file("model.safetensors", &content(SIZE), true);
    world.stand_in.file("pytorch_model.bin", &content(SIZE * 2), true);
    world
}

async fn fetch(models: &Models) -> Result<std::path::PathBuf, ModelError> {
    let flight = models.hub(repository("org/name", None, RuntimeKind::Vllm, None))?;
    within("the fetch", flight.outcome()).await
}

#[tokio::test]
async fn a_repository_becomes_a_snapshot_of_the_hubs_cache() {
    let world = world().await;
    let path = fetch(&world.models).await.expect("fetched");
    let repo = world.repo();
    assert_eq!(path, repo.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("readable"), content(SIZE));
    assert_eq!(std::fs::read_to_string(path.join("config.json")).expect("readable"), "{}");
    assert!(!path.join("pytorch_model.bin").exists(), "one format is enough");
    let link = std::fs::read_link(path.join("model.safetensors")).expect("a link");
    assert_eq!(link.to_str(), Some(format!("../../blobs/{}", sha256(&content(SIZE))).as_str()));
    assert!(repo.join("blobs").join(git_id(b"{}")).is_file());
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).expect("a ref"), COMMIT);
    // The token goes to the hub and to nobody else.
    let bearer = Some("Bearer hf_secret".to_owned());
    assert_eq!(world.stand_in.asked("/revision/main")[0].token, bearer);
    assert_eq!(
        world.stand_in.asked("/resolve/0123456789abcdef0123456789abcdef01234567/model.safetensors")[0].token,
        bearer
    );
    assert_eq!(world.stand_in.asked("/cdn/model.safetensors")[0].token, None);

    let files = world.stand_in.state().seen.len();
    fetch(&world.again()).await.expect("there");
    assert_eq!(world.stand_in.state().seen.len(), files + 1, "only the list is asked for again");
}

#[tokio::test]
async fn what_broke_off_is_gone_on_with() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Stall(20_000));
    world.stand_in.fault("model.safetensors", Fault::Cut(10_000));
    let path = fetch(&world.models).await.expect("fetched");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("readable"), content(SIZE));
    let ranges = world.stand_in.ranges("model.safetensors");
    assert_eq!(ranges[..2], [None, Some("bytes=20000-".to_owned())], "nothing is fetched twice");
    // Of what was on its way when the connection broke, some may be lost.
    assert!((20_000..=30_000).contains(&begin(&ranges[2])), "{ranges:?}");
    assert_eq!(ranges.len(), 3);
}

fn begin(range: &Option<String>) -> usize {
    let range = range.as_deref().expect("a range");
    range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse().ok()).expect("a number")
}

#[tokio::test]
async fn a_stopped_fetch_is_gone_on_with_by_the_next_agent() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Stall(20_000));
    let partial = world.repo().join("blobs").join(format!("{}.incomplete", sha256(&content(SIZE))));
    let flight = world.models.hub(repository("org/name", None, RuntimeKind::Vllm, None)).expect("begins");
    until("20,000 bytes", || std::fs::metadata(&partial).is_ok_and(|found| found.len() == 20_000)).await;
    drop(flight);
    fetch(&world.again()).await.expect("fetched");
    let ranges = world.stand_in.ranges("model.safetensors");
    assert_eq!(ranges, [None, Some("bytes=20000-".to_owned())]);
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_server_that_takes_no_ranges_is_read_from_the_beginning() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Cut(20_000));
    world.stand_in.fault("model.safetensors", Fault::NoRange);
    let path = fetch(&world.models).await.expect("fetched");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("readable"), content(SIZE));
}

#[tokio::test]
async fn wrong_bytes_are_thrown_away_and_fetched_once_more() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Wrong);
    fetch(&world.models).await.expect("the second time they are right");
    assert_eq!(world.stand_in.ranges("model.safetensors"), [None, None]);

    let world = super::hub::world().await;
    for _ in 0..2 {
        world.stand_in.fault("model.safetensors", Fault::Wrong);
    }
    let error = fetch(&world.models).await.expect_err("wrong twice");
    assert_eq!(error.kind, Kind::Damaged);
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("org/name/model.safetensors"), "{error}");
    let blobs = world.repo().join("blobs");
    let sum = sha256(&content(SIZE));
    until("nothing of it is left", || !blobs.join(format!("{sum}.incomplete")).exists()).await;
    assert!(!blobs.join(sum).exists());
}

#[tokio::test]
async fn wrong_bytes_of_a_stopped_fetch_are_noticed() {
    let world = world().await;
    let blobs = world.repo().join("blobs");
    std::fs::create_dir_all(&blobs).expect("made");
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(&content(SIZE)))), vec![7; 30_000])
        .expect("written");
    let path = fetch(&world.models).await.expect("fetched");
    assert_eq!(std::fs::read(path.join("model.safetensors")).expect("readable"), content(SIZE));
    assert_eq!(world.stand_in.ranges("model.safetensors"), [Some("bytes=30000-".to_owned()), None]);
}

#[tokio::test]
async fn more_bytes_than_announced_are_not_taken() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Longer);
    let path = fetch(&world.models).await.expect("fetched");
    assert_eq!(std::fs::metadata(path.join("model.safetensors")).expect("there").len(), SIZE as u64);
}

#[tokio::test]
async fn what_may_pass_is_tried_three_times_and_no_more() {
    for status in [429, 500, 503] {
        let world = world().await;
        let path = format!("/org/name/resolve/{COMMIT}/config.json");
        (0..2).for_each(|_| world.stand_in.fault(&path, Fault::Status(status)));
        fetch(&world.models).await.expect("the third time");
        assert_eq!(world.stand_in.asked(&path).len(), 3, "{status}");

        let world = super::hub::world().await;
        (0..3)
            .for_each(|_| world.stand_in.fault("/api/models/org/name/revision/main", Fault::Status(status)));
        let error = fetch(&world.models).await.expect_err("three times");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(world.stand_in.asked("/revision/main").len(), 3, "{status}");
    }
    let world = world().await;
    (0..3).for_each(|_| world.stand_in.fault("model.safetensors", Fault::Stall(0)));
    let error = fetch(&world.models).await.expect_err("it stalls");
    assert!(error.is_retryable() && error.to_string().contains("no byte came"), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do_and_are_not_repeated() {
    for (status, code, kind, part) in [
        (401, None, Kind::Denied, "HF_TOKEN"),
        (403, None, Kind::Denied, "HF_TOKEN"),
        (403, Some("GatedRepo"), Kind::Denied, "accept its terms"),
        (404, Some("RepoNotFound"), Kind::NotFound, "org/name@main is not on the hub"),
        (404, Some("RevisionNotFound"), Kind::NotFound, "no such revision"),
    ] {
        let world = world().await;
        world.stand_in.state().error_code = code;
        world.stand_in.fault("/api/models/org/name/revision/main", Fault::Status(status));
        let error = fetch(&world.models).await.expect_err("refused");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(
            error.to_string().starts_with("model: ") && !error.to_string().contains("hf_secret"),
            "{error}"
        );
        assert_eq!(world.stand_in.asked("/revision/main").len(), 1);
    }
}

#[tokio::test]
async fn names_that_lead_outside_are_refused_before_anything_is_fetched() {
    for name in
        ["../../evil.safetensors", "/etc/evil.safetensors", "a/../../evil.safetensors", "evil\n.safetensors"]
    {
        let world = world().await;
        let entry = json!({"rfilename": name, "size": 2, "blobId": git_id(b"{}")});
        world.stand_in.state().listed_too.push(entry);
        let error = fetch(&world.models).await.expect_err("refused");
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert_eq!(world.stand_in.state().seen.len(), 1, "{name:?}");
    }
    // What names a content becomes a file name too.
    let world = world().await;
    let entry = json!({"rfilename": "x.json", "size": 2, "blobId": "../../../../evil"});
    world.stand_in.state().listed_too.push(entry);
    fetch(&world.models).await.expect_err("refused");
}

#[tokio::test]
async fn what_does_not_fit_is_not_begun() {
    let world = world().await;
    let huge = json!({"rfilename": "huge.safetensors", "size": 1u64 << 60, "blobId": git_id(b"x")});
    world.stand_in.state().listed_too.push(huge);
    let error = fetch(&world.models).await.expect_err("too large");
    assert_eq!(error.kind, Kind::NoRoom);
    assert!(error.to_string().contains(&world.repo().display().to_string()), "{error}");
    assert_eq!(world.stand_in.state().seen.len(), 1);
}

#[tokio::test]
async fn without_the_hub_the_cache_is_enough_if_it_is_whole() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Cut(20_000));
    (0..2).for_each(|_| world.stand_in.fault("model.safetensors", Fault::Cut(0)));
    fetch(&world.models).await.expect_err("it breaks off");
    let models = world.again();
    let path = fetch(&models).await.expect("fetched");
    world.stand_in.stop().await;
    assert_eq!(fetch(&world.again()).await.expect("in the cache"), path);
    // A commit needs no hub at all, another branch does.
    let commit =
        world.models.hub(repository("org/name", Some(COMMIT), RuntimeKind::Tgi, None)).expect("begins");
    assert_eq!(within("the fetch", commit.outcome()).await.expect("in the cache"), path);
    let other =
        world.models.hub(repository("org/name", Some("dev"), RuntimeKind::Tgi, None)).expect("begins");
    assert!(within("the fetch", other.outcome()).await.expect_err("not in the cache").is_retryable());
    std::fs::remove_file(world.repo().join("blobs").join(git_id(b"{}"))).expect("removed");
    assert!(fetch(&world.again()).await.expect_err("not whole").is_retryable());
}

#[tokio::test]
async fn without_the_hub_a_cache_that_somebody_copied_is_believed() {
    let world = world().await;
    world.stand_in.stop().await;
    let snapshot = world.repo().join("snapshots").join(COMMIT);
    std::fs::create_dir_all(snapshot.join("sub")).expect("made");
    std::fs::create_dir_all(world.repo().join("refs")).expect("made");
    std::fs::write(world.repo().join("refs/main"), COMMIT).expect("written");
    fetch(&world.models).await.expect_err("no weights");
    std::fs::write(snapshot.join("sub/model.gguf"), "x").expect("written");
    let flight = world.models.hub(repository("org/name", None, RuntimeKind::Llamacpp, None)).expect("begins");
    assert_eq!(within("the fetch", flight.outcome()).await.expect("there"), snapshot.join("sub/model.gguf"));
}

#[tokio::test]
async fn two_who_want_the_same_fetch_it_once() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Cut(20_000));
    let (one, two) = tokio::join!(fetch(&world.models), fetch(&world.models));
    assert_eq!(one.expect("fetched"), two.expect("fetched"));
    assert_eq!(world.stand_in.asked("/revision/main").len(), 1);
    // Whoever shows another token asks for himself, and waits for the files.
    let world = super::hub::world().await;
    let own = repository("org/name", None, RuntimeKind::Vllm, Some(Secret::from_text("hf_other")));
    let own = world.models.hub(own).expect("begins");
    let (one, two) = within("both", async { tokio::join!(fetch(&world.models), own.outcome()) }).await;
    assert_eq!(one.expect("fetched"), two.expect("fetched"));
    assert_eq!(world.stand_in.asked("/revision/main").len(), 2);
    assert_eq!(world.stand_in.ranges("model.safetensors"), [None]);
}

#[tokio::test]
async fn a_replica_gets_what_its_runtime_needs() {
    let world = world().await;
    world.stand_in.file("m-Q4_K_M.gguf", &content(1_000), true);
    world.stand_in.file("m-Q8_0.gguf", &content(2_000), true);
    let reporter = Reporter::default();
    let fetched =
        async |spec| within("the fetch", world.models.fetch(&spec, &reporter)).await.expect("fetched");
    let snapshot = world.repo().join("snapshots").join(COMMIT);
    let source = "hf://org/name";
    for runtime in [RuntimeKind::Sim, RuntimeKind::Ollama, RuntimeKind::Triton] {
        assert_eq!(fetched(spec(runtime, source)).await, None, "{runtime}");
    }
    let mut own = spec(RuntimeKind::Vllm, source);
    own.command = vec!["serve".to_owned()];
    assert_eq!(fetched(own).await, None, "a command sees to itself");
    let mut elsewhere = spec(RuntimeKind::Vllm, source);
    elsewhere.env.insert("HF_HOME".to_owned(), "/elsewhere".to_owned());
    assert_eq!(fetched(elsewhere).await, None);
    assert!(world.stand_in.state().seen.is_empty(), "none of these asked");
    assert_eq!(fetched(spec(RuntimeKind::Llamacpp, source)).await, Some(snapshot.join("m-Q4_K_M.gguf")));
    assert!(!snapshot.join("m-Q8_0.gguf").exists());
    let mut token = spec(RuntimeKind::Vllm, source);
    token.env.insert("HF_TOKEN".to_owned(), "hf_own".to_owned());
    assert_eq!(fetched(token).await, None);
    assert!(snapshot.join("model.safetensors").is_file(), "the shared cache is filled");
    let tokens: Vec<_> = world.stand_in.asked("/revision/main").into_iter().map(|seen| seen.token).collect();
    assert_eq!(tokens, [Some("Bearer hf_secret".to_owned()), Some("Bearer hf_own".to_owned())]);
}

#[tokio::test]
async fn progress_is_told_while_it_goes_on() {
    let world = world().await;
    world.stand_in.fault("model.safetensors", Fault::Stall(25_000));
    let reporter = Reporter::default();
    let mut heard = reporter.subscribe();
    let models = Arc::new(world.models.clone());
    let fetching = {
        let (models, reporter) = (Arc::clone(&models), reporter.clone());
        tokio::spawn(async move { models.fetch(&spec(RuntimeKind::Vllm, "hf://org/name"), &reporter).await })
    };
    let half = within(
        "half of it",
        heard.wait_for(|progress| progress.percent.is_some_and(|percent| percent > 40.0)),
    );
    let half = half.await.expect("told").clone();
    assert!(half.message.starts_with("fetching hf://org/name: 24.4 KiB of 48.8 KiB"), "{half:?}");
    within("the fetch", fetching).await.expect("no panic").expect("fetched");
    assert_eq!(reporter.newest().message, "", "nothing is under way any more");
}
