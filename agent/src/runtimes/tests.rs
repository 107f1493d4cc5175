//! The table itself, the choice of a driver, and what logs say. Command lines are in the modules below.

mod containers;
mod processes;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn tools() -> Tools {
    Tools {
        sim_command: vec!["/bin/sh".to_owned(), "sim-runtime".to_owned()],
        python: None,
        model_dir: None,
        fs_roots: Vec::new(),
    }
}

fn spec(runtime: RuntimeKind, source: Option<&str>) -> Spec {
    Spec {
        runtime,
        model: "some-model".to_owned(),
        source: source.map(|text| text.parse().expect("a source")),
        served_name: "served".to_owned(),
        command: Vec::new(),
        args: Vec::new(),
        env: BTreeMap::new(),
        image: None,
        driver: None,
        gpu_devices: Vec::new(),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn uuids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("GPU-{number}")).collect()
}

/// A directory with programs of these names in it, to be used as `PATH`.
fn programs(names: &[&str]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    for name in names {
        let path = dir.path().join(name);
        std::fs::write(&path, "#!/bin/sh\n").expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("is made a program");
    }
    let path = dir.path().display().to_string();
    (dir, path)
}

/// A directory with files of these names in it.
fn files(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for name in names {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, "weights").expect("writes");
    }
    dir
}

#[test]
fn every_runtime_has_a_complete_entry() {
    for kind in RuntimeKind::ALL {
        let runtime = of(kind);
        assert_eq!(runtime.kind, kind);
        assert!(runtime.container_port > 0, "{kind}");
        assert!(!runtime.advice.is_empty(), "{kind}");
        let health = health(kind);
        assert!(health.path.starts_with('/'), "{kind}");
        assert!(health.otherwise.is_none_or(|path| path.starts_with('/') && path != health.path), "{kind}");
        match &runtime.images {
            Some(images) => {
                for image in [images.plain, images.gpu] {
                    let tag = image.rsplit_once(':').expect("a tag").1;
                    assert!(tag.chars().any(|c| c.is_ascii_digit()), "{image} is no fixed version");
                }
            }
            None => assert_eq!(kind, RuntimeKind::Sim, "only the simulated one has none"),
        }
        if let Some(cache) = &runtime.cache {
            assert!(cache.inside.starts_with('/') && !cache.below.contains('/'), "{kind}");
        }
        assert_eq!(runtime.cache.is_none(), runtime.takes.is_empty(), "{kind}: who takes models keeps them");
    }
}

#[test]
fn ports_inside_containers_are_the_documented_ones() {
    let ports = RuntimeKind::ALL.map(|kind| of(kind).container_port);
    assert_eq!(ports, [8_000, 80, 11_434, 9_000, 8_080, 8_000]);
}

#[test]
fn the_page_for_users_has_the_same_table() {
    let page = include_str!("../../../docs/runtimes.md");
    for kind in RuntimeKind::ALL {
        let runtime = of(kind);
        let row = page.lines().find(|line| line.starts_with(&format!("| `{kind}` |"))).expect("a row");
        assert!(row.contains(&format!("| {} |", runtime.container_port)), "{row}");
        assert!(row.contains(runtime.health.path), "{row}");
        for image in runtime.images.iter().flat_map(|images| [images.plain, images.gpu]) {
            let tag = image.rsplit_once(':').expect("a tag").1;
            assert!(row.contains(&format!(":{tag}`")), "{image}: {row}");
        }
        if let Some(cache) = &runtime.cache {
            assert!(row.ends_with(&format!("| `{}` |", cache.below)), "{row}");
        }
    }
}

#[test]
fn only_ollama_is_told_its_model_later() {
    let load = |runtime, source| model_to_load(&spec(runtime, source));
    assert_eq!(load(RuntimeKind::Ollama, Some("ollama://llama3.2:1b")).as_deref(), Some("llama3.2:1b"));
    assert_eq!(load(RuntimeKind::Ollama, None).as_deref(), Some("some-model"));
    assert_eq!(load(RuntimeKind::Vllm, Some("ollama://llama3.2:1b")), None);
    let own = Spec { command: words("serve it"), ..spec(RuntimeKind::Ollama, None) };
    assert_eq!(model_to_load(&own), None);
}

#[test]
fn an_engine_makes_more_runtimes_possible() {
    let without = supported(&tools(), false);
    assert!(without.contains(&RuntimeKind::Sim));
    assert_eq!(supported(&tools(), true), RuntimeKind::ALL);
    assert_eq!(supported_at_a_glance(&tools(), true), RuntimeKind::ALL);
    assert!(supported_at_a_glance(&tools(), false).iter().all(|kind| without.contains(kind)));
}

#[test]
fn the_driver_is_the_deployments_then_the_nodes_then_what_fits() {
    use Driver::{Docker, Process};
    use NodeDriver::{Auto, Only};
    let (_dir, here) = programs(&["vllm", "llama-server"]);
    let plain = |runtime| Spec { env: [("PATH".to_owned(), here.clone())].into(), ..spec(runtime, None) };
    let vllm = || plain(RuntimeKind::Vllm);
    let tgi = || plain(RuntimeKind::Tgi);
    let image = || Some("registry/image:1".to_owned());
    let cases = [
        ("the deployment's", Spec { driver: Some(Docker), ..vllm() }, Only(Process), false, Docker),
        ("the deployment's, again", Spec { driver: Some(Process), ..vllm() }, Only(Docker), true, Process),
        ("the node's", vllm(), Only(Docker), false, Docker),
        ("the node's, again", Spec { image: image(), ..tgi() }, Only(Process), true, Process),
        ("an image", Spec { image: image(), ..vllm() }, Auto, false, Docker),
        (
            "an image and a command",
            Spec { image: image(), command: words("x"), ..vllm() },
            Auto,
            true,
            Docker,
        ),
        ("the simulated one", plain(RuntimeKind::Sim), Auto, true, Process),
        ("a command", Spec { command: words("x"), ..tgi() }, Auto, true, Process),
        ("a program", vllm(), Auto, true, Process),
        ("another program", plain(RuntimeKind::Llamacpp), Auto, true, Process),
        ("an engine", tgi(), Auto, true, Docker),
        ("an engine for triton", plain(RuntimeKind::Triton), Auto, true, Docker),
    ];
    for (what, spec, node, engine, expected) in cases {
        assert_eq!(choose_driver(&spec, node, engine, &tools()), Ok(expected), "{what}");
    }
    let error = choose_driver(&tgi(), Auto, false, &tools()).expect_err("nothing is there").to_string();
    assert!(error.starts_with("tgi is not on this node, and no Docker Engine answers; "), "{error}");
    assert_eq!(NodeDriver::from(None), Auto);
    assert_eq!(NodeDriver::from(Some(Process)), Only(Process));
}

#[test]
fn logs_tell_how_far_a_runtime_has_got() {
    use RuntimeKind::{Llamacpp, Ollama, Tgi, Triton, Vllm};
    let weights = "loading the weights";
    let cases = [
        (
            Vllm,
            "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:00<00:02,  1.33it/s]",
            Some(25.0),
            weights,
        ),
        (
            Vllm,
            "Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?]\rLoading safetensors checkpoint shards:  50% Completed | 2/4\r",
            Some(50.0),
            weights,
        ),
        (
            Vllm,
            "(EngineCore pid=7) INFO 06-02 00:51:40 [model_runner.py:295] Model loading took 7.64 GiB and 32.96 seconds",
            None,
            "the weights are loaded",
        ),
        (
            Vllm,
            "INFO 05-06 21:00:16 [backends.py:1128] Dynamo bytecode transform time: 3.54 s",
            None,
            "compiling the model",
        ),
        (
            Vllm,
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  45%|####      | 30/67 [00:01<00:01]",
            Some(45.0),
            "capturing CUDA graphs",
        ),
        (
            Vllm,
            "model-00001-of-00004.safetensors:  31%|###       | 1.54G/4.98G [00:12<00:28, 122MB/s]",
            Some(31.0),
            "downloading the model",
        ),
        (
            Tgi,
            "2024-04-30T21:50:05Z  INFO text_generation_launcher: Download: [8/16] -- ETA: 0:00:37.125",
            Some(50.0),
            "downloading the model",
        ),
        (
            Tgi,
            r#"{"level":"INFO","fields":{"message":"Download: [6/8] -- ETA: 0:00:07\n"}}"#,
            Some(75.0),
            "downloading the model",
        ),
        (
            Tgi,
            "INFO shard-manager: text_generation_launcher: Waiting for shard to be ready... rank=2",
            None,
            weights,
        ),
        (Tgi, "INFO text_generation_router: Warming up model", None, "warming up"),
        (
            Llamacpp,
            "load_tensors: loading model tensors, this can take a while... (mmap = true)",
            None,
            weights,
        ),
        (Llamacpp, "..........................", Some(26.0), weights),
        (Llamacpp, "main: model loaded", None, "the weights are loaded"),
        (
            Ollama,
            "time=2024-07-31T15:21:10 level=DEBUG source=server.go:600 msg=\"model load progress 0.25\"",
            Some(25.0),
            weights,
        ),
        (
            Ollama,
            "level=INFO source=server.go:589 msg=\"waiting for llama runner to start responding\"",
            None,
            weights,
        ),
        (
            Ollama,
            "level=INFO source=download.go:177 msg=\"downloading 74701a8c35f6 in 14 100 MB part(s)\"",
            None,
            "downloading the model",
        ),
        (
            Triton,
            "I0101 00:00:00.0 1 model_lifecycle.cc:473] \"loading: llama:1\"",
            None,
            "loading the model",
        ),
        (Triton, "Loading safetensors checkpoint shards: 100% Completed | 4/4", Some(100.0), weights),
    ];
    for (runtime, line, percent, message) in cases {
        let said = progress(runtime, line).unwrap_or_else(|| panic!("{runtime} says nothing: {line}"));
        assert_eq!((said.percent, &*said.message), (percent, message), "{line}");
    }
    for kind in RuntimeKind::ALL {
        for line in
            ["", "\r\n", "INFO: 127.0.0.1 - \"POST /v1/chat/completions HTTP/1.1\" 200 OK", "100% sure"]
        {
            assert_eq!(progress(kind, line), None, "{kind}: {line}");
        }
        // A line of 10 MB is not read through.
        progress(kind, &"Download: [1/ model load progress \r".repeat(300_000));
    }
}

fn any_runtime() -> impl Strategy<Value = RuntimeKind> {
    proptest::sample::select(RuntimeKind::ALL.to_vec())
}

/// Pieces that the readers look for, and noise around them.
fn any_line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            " checkpoint shards:",
            "Download: [",
            "model load progress ",
            "%",
            "/",
            "%|",
            ".safetensors:",
            "\r",
            "....",
            "99999999999999999999",
            "-1",
            "NaN",
            "1e99",
            "0.5",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_line_is_too_odd(kind in any_runtime(), line in any_line()) {
        if let Some(said) = progress(kind, &line) {
            prop_assert!(said.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)), "{said:?}");
            prop_assert!(!said.message.is_empty());
        }
    }

    #[test]
    fn no_text_is_too_odd_to_be_filled_in(text in "(\\{port\\}|\\{model\\}|\\{name\\}|[{}]|\\PC){0,20}", model in "\\PC{0,20}") {
        let (spec, tools) = (spec(RuntimeKind::Vllm, None), tools());
        let ask = Ask {
            spec: &spec, tools: &tools, model: &model, form: Form::Name, host: "127.0.0.1", port: 30_001, gpus: 0,
        };
        let filled = ask.fill(&text);
        if !text.contains('{') {
            prop_assert_eq!(filled, text);
        }
    }
}
