//! Making containers, finding them again, and leaving nothing.

use std::net::TcpListener;
use std::time::Duration;

use super::super::{Fit, StartError};
use super::support::{World, until};
use crate::replica::spec::ContainerRef;
use crate::runtimes::Mount;

#[tokio::test]
async fn a_container_is_confined_and_says_whose_it_is() {
    let Some(world) = World::new().await else { return };
    world.docker.set_node_id("node-7".to_owned());
    let host = world.dir.path().join("models");
    std::fs::create_dir(&host).expect("a directory");
    std::fs::write(host.join("m"), "weights").expect("a file");
    let mut plan = world.plan("cat /models/m /proc/self/status; echo $GREETING; exec sleep 100");
    plan.mounts = vec![Mount { host, container: "/models".to_owned(), read_only: true }];
    plan.env.insert("GREETING".to_owned(), "hello there".to_owned());
    plan.shm_bytes = 32 << 20;
    plan.keep_capabilities = &["SYS_NICE"];
    let name = world.name(3);
    let container = world.docker.start(&plan, &name).await.expect("it starts");

    let found = world.inspect(container).await;
    let replica = name.replica.to_string().replace('-', "");
    let expected = format!("/nebula-{}-3-{}", &replica[..12], &world.agent_id[..6]);
    assert_eq!(found.name.as_deref(), Some(expected.as_str()));
    let labels = found.config.expect("a configuration").labels.expect("labels");
    for (label, value) in [
        ("nebula.node", "node-7".to_owned()),
        ("nebula.agent", world.agent_id.clone()),
        ("nebula.deployment", name.deployment.to_string()),
        ("nebula.replica", name.replica.to_string()),
        ("nebula.generation", "1".to_owned()),
        ("nebula.attempt", "3".to_owned()),
        ("nebula.config_hash", "c0ffee".to_owned()),
    ] {
        assert_eq!(labels.get(label), Some(&value), "{label}");
    }
    let host = found.host_config.expect("a host configuration");
    assert_eq!(host.privileged, Some(false));
    assert_eq!(
        (host.pids_limit, host.memory, host.memory_swap),
        (Some(4096), Some(64 << 20), Some(64 << 20))
    );
    assert_eq!(host.shm_size, Some(32 << 20));
    let ports = host.port_bindings.expect("ports");
    let binding = ports["8000/tcp"].as_ref().expect("a binding").first().expect("a binding");
    assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    assert_eq!(binding.host_port.as_deref(), Some(plan.host_port.to_string().as_str()));

    let log = world.log();
    let watching = world.docker.watch(container, name.replica, log.clone());
    let reading = until("its output", async || {
        let words = log.last_words(200, 64 << 10);
        words.ends_with("hello there").then_some(words)
    });
    let words =
        tokio::select! { words = reading => words, ended = watching => panic!("it ended: {ended:?}") };
    assert!(words.starts_with("weights"), "{words}");
    let of = |name: &str| {
        words.lines().find_map(|line| line.strip_prefix(name)).expect("a line").trim().to_owned()
    };
    // Bit 23 is SYS_NICE; root in there has nothing else.
    assert_eq!(of("CapBnd:"), "0000000000800000");
    assert_eq!(of("NoNewPrivs:"), "1");

    world.docker.sweep(name.replica).await;
    assert_eq!(world.containers().await.len(), 0);
}

#[tokio::test]
async fn a_port_of_somebody_else_is_told_and_nothing_stays() {
    let Some(world) = World::new().await else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut plan = world.plan("sleep 100");
    plan.host_port = taken.local_addr().expect("an address").port();
    let error = world.docker.start(&plan, &world.name(1)).await.expect_err("the port is taken");
    assert!(matches!(error, StartError::PortTaken(_)), "{error:?}");
    assert_eq!(world.containers().await.len(), 0);
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_and_nothing_stays() {
    let Some(world) = World::new().await else { return };
    let mut no_program = world.plan("");
    no_program.entrypoint = Some(vec!["/bin/nothing".to_owned()]);
    let mut no_image = world.plan("");
    no_image.image = "nebtest-h1-nothing".to_owned();
    let mut no_mount = world.plan("");
    no_mount.mounts = vec![Mount { host: "/nowhere/x".into(), container: "/x".to_owned(), read_only: true }];
    let mut no_gpu = world.plan("sleep 100");
    no_gpu.gpu_uuids = vec!["GPU-00000000-0000-0000-0000-000000000000".to_owned()];
    for (plan, word) in [
        (no_program, "/bin/nothing"),
        (no_image, "the image nebtest-h1-nothing is gone"),
        (no_mount, "/nowhere/x"),
        // Without the toolkit that is named; with it, there is no such GPU.
        (no_gpu, ""),
    ] {
        let error = world.docker.start(&plan, &world.name(1)).await.expect_err("it cannot run");
        assert!(matches!(&error, StartError::Refused(text) if text.contains(word)), "{word}: {error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(world.containers().await.len(), 0, "{word}");
    }
}

#[tokio::test]
async fn a_replica_never_has_two() {
    let Some(world) = World::new().await else { return };
    let (first, mut name) = world.start("sleep 100").await;
    name.attempt = 2;
    let second = world.docker.start(&world.plan("sleep 100"), &name).await.expect("it starts");
    assert_ne!(first, second);
    let all = world.containers().await;
    assert_eq!(all.iter().filter_map(|one| one.id.clone()).collect::<Vec<_>>(), [second.to_hex()]);
}

#[tokio::test]
async fn a_later_agent_finds_what_an_earlier_one_left() {
    let Some(world) = World::new().await else { return };
    let (container, name) = world.start("sleep 100").await;
    let later = world.again(None);
    assert_eq!(later.find(&name).await, Ok(Some(container)));
    assert_eq!(later.fits(container, Some(&name)).await, Ok(Fit::Running));
    let mut other = name.clone();
    other.config_hash = "dead".to_owned();
    assert_eq!(later.fits(container, Some(&other)).await, Ok(Fit::Other));
    assert_eq!(later.fits(ContainerRef([7; 32]), Some(&name)).await, Ok(Fit::Ended));
    // One that never ran: the agent died between making and starting it.
    let half = world.name(1);
    let labels = half.labels("", &world.agent_id);
    let client = world.docker.0.engine.client(Duration::from_secs(10)).expect("a client");
    let body = bollard::models::ContainerCreateBody {
        image: Some(world.image.clone()),
        cmd: Some(vec!["/bin/sh".to_owned()]),
        labels: Some(labels),
        ..Default::default()
    };
    client.create_container(None, body).await.expect("it is made");
    assert_eq!(world.containers().await.len(), 2);
    assert_eq!(later.find(&half).await, Ok(None));
    assert_eq!(world.containers().await.len(), 1);
    // It was made from something else.
    assert_eq!(later.find(&other).await, Ok(None));
    assert_eq!(world.containers().await.len(), 0);
}

#[tokio::test]
async fn another_agents_containers_are_never_touched() {
    let (Some(world), Some(other)) = (World::new().await, World::new().await) else { return };
    let (_, name) = other.start("sleep 100").await;
    let (_, kept) = world.start("sleep 100").await;
    let (_, _stray) = world.start("sleep 100").await;
    world.docker.sweep(name.replica).await;
    world.docker.remove_strays(|replica| replica == kept.replica).await;
    assert_eq!(world.docker.find(&name).await, Ok(None));
    assert_eq!(other.containers().await.len(), 1);
    let left = world.containers().await;
    assert_eq!(left.len(), 1);
    let label = left[0].labels.as_ref().and_then(|labels| labels.get("nebula.replica")).cloned();
    assert_eq!(label, Some(kept.replica.to_string()));
}

#[tokio::test]
async fn all_containers_are_killed_from_a_plain_thread() {
    let Some(world) = World::new().await else { return };
    let (one, name) = world.start("sleep 100").await;
    let (two, _) = world.start("sleep 100").await;
    let docker = world.docker.clone();
    let killing = std::thread::spawn(move || {
        docker.kill_blocking(&[one, two, ContainerRef([7; 32])], Duration::from_secs(10));
    });
    tokio::task::spawn_blocking(move || killing.join()).await.expect("it ends").expect("it does not panic");
    until("both are dead", async || {
        let fits = [world.docker.fits(one, Some(&name)).await, world.docker.fits(two, None).await];
        (fits == [Ok(Fit::Ended), Ok(Fit::Ended)]).then_some(())
    })
    .await;
}
