//! The command line of each runtime, and what is refused.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn tools() -> Tools {
    Tools { sim_command: vec!["/bin/sh".to_owned(), "sim-runtime".to_owned()], python: None, model_dir: None }
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
        gpu_devices: Vec::new(),
    }
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

fn line(spec: &Spec) -> String {
    plan(spec, 30_001, &tools()).map_or_else(|error| error.to_string(), |plan| plan.args.join(" "))
}

#[test]
fn the_usual_command_lines() {
    let (_dir, path) = programs(&["vllm", "text-generation-launcher", "ollama", "llama-server"]);
    let cases = [
        (
            RuntimeKind::Vllm,
            "hf://org/name@v1",
            "serve org/name --host 127.0.0.1 --port 30001 --served-model-name served --revision v1 --tensor-parallel-size 2",
        ),
        (
            RuntimeKind::Tgi,
            "hf://org/name",
            "--model-id org/name --hostname 127.0.0.1 --port 30001 --num-shard 2",
        ),
        (RuntimeKind::Ollama, "ollama://llama3.2:1b", "serve"),
        (
            RuntimeKind::Llamacpp,
            "fs:///etc/hostname",
            "--model /etc/hostname --alias served --host 127.0.0.1 --port 30001",
        ),
        (RuntimeKind::Llamacpp, "hf://org/name", "-hf org/name --alias served --host 127.0.0.1 --port 30001"),
        (RuntimeKind::Sim, "hf://org/name", "sim-runtime --port 30001 --model served"),
    ];
    for (runtime, source, expected) in cases {
        let mut spec = spec(runtime, Some(source));
        spec.env.insert("PATH".to_owned(), path.clone());
        spec.gpu_devices = vec![2, 3];
        assert_eq!(line(&spec), expected);
        let plan = plan(&spec, 30_001, &tools()).expect("a plan");
        assert_eq!(plan.env.get("CUDA_VISIBLE_DEVICES").map(String::as_str), Some("2,3"));
        assert_eq!(plan.env.get("PORT").map(String::as_str), Some("30001"));
    }
}

#[test]
fn a_command_replaces_the_line_and_placeholders_are_filled_in() {
    let mut spec = spec(RuntimeKind::Vllm, None);
    spec.command = ["sh", "-c", "serve {model} as {name}"].map(str::to_owned).into();
    spec.args = vec!["--on={port}".to_owned()];
    spec.env.insert("WHERE".to_owned(), "http://127.0.0.1:{port}/{name}".to_owned());
    assert_eq!(line(&spec), "-c serve some-model as served --on=30001");
    let plan = plan(&spec, 30_001, &tools()).expect("a plan");
    assert_eq!(plan.env.get("WHERE").map(String::as_str), Some("http://127.0.0.1:30001/served"));
    assert!(!plan.env.contains_key("CUDA_VISIBLE_DEVICES"));
    assert!(plan.program.ends_with("sh"));
}

#[test]
fn what_the_user_sets_is_not_set_twice() {
    let (_dir, path) = programs(&["vllm"]);
    let mut spec = spec(RuntimeKind::Vllm, None);
    spec.env.insert("PATH".to_owned(), path);
    spec.gpu_devices = vec![0, 1, 2, 3];
    spec.args = vec!["--tensor-parallel-size=2".to_owned()];
    assert!(line(&spec).ends_with("--served-model-name served --tensor-parallel-size=2"), "{}", line(&spec));
}

#[test]
fn what_is_missing_is_named() {
    let nowhere = |mut spec: Spec| {
        spec.env.insert("PATH".to_owned(), "/nowhere".to_owned());
        line(&spec)
    };
    assert_eq!(
        nowhere(spec(RuntimeKind::Vllm, None)),
        "the program \"vllm\" is not on this node; install vllm there, or give the deployment a command of its own"
    );
    let file = spec(RuntimeKind::Llamacpp, Some("fs:///no/such.gguf"));
    assert_eq!(
        nowhere(file),
        "there is no model file /no/such.gguf; copy it to this node or correct the path"
    );
    let (_dir, path) = programs(&["llama-server"]);
    let mut plain = spec(RuntimeKind::Llamacpp, None);
    plain.env.insert("PATH".to_owned(), path);
    assert!(line(&plain).contains("use fs:///path/to/model.gguf"), "{}", line(&plain));
    assert!(nowhere(spec(RuntimeKind::Vllm, Some("s3://b/k"))).contains("s3:// is not built yet"));
}

#[test]
fn the_simulated_runtime_is_always_supported() {
    assert!(supported(&tools()).contains(&RuntimeKind::Sim));
}
