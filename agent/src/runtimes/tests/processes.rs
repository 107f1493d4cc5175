//! Replicas as processes: the command line of each runtime, and what is refused.

use super::*;

fn line(spec: &Spec, gpus: usize, local: Option<&Path>) -> String {
    plan(spec, 30_001, &tools(), &uuids(gpus), local)
        .map_or_else(|error| error.to_string(), |plan| plan.args.join(" "))
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
            RuntimeKind::Vllm,
            "fs:///etc/hostname",
            "serve /etc/hostname --host 127.0.0.1 --port 30001 --served-model-name served --tensor-parallel-size 2",
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
            "--model /etc/hostname --alias served --host 127.0.0.1 --port 30001 --n-gpu-layers 999",
        ),
        (
            RuntimeKind::Llamacpp,
            "hf://org/name",
            "-hf org/name --alias served --host 127.0.0.1 --port 30001 --n-gpu-layers 999",
        ),
        (RuntimeKind::Sim, "hf://org/name", "sim-runtime --port 30001 --model served"),
        (RuntimeKind::Sim, "fs:///no/such/file", "sim-runtime --port 30001 --model served"),
        (RuntimeKind::Sim, "s3://bucket/key", "sim-runtime --port 30001 --model served"),
    ];
    for (runtime, source, expected) in cases {
        let mut spec = spec(runtime, Some(source));
        spec.env.insert("PATH".to_owned(), path.clone());
        assert_eq!(line(&spec, 2, None), expected);
        let plan = plan(&spec, 30_001, &tools(), &uuids(2), None).expect("a plan");
        assert_eq!(plan.env.get("CUDA_VISIBLE_DEVICES").map(String::as_str), Some("GPU-0,GPU-1"));
        assert_eq!(plan.env.get("PORT").map(String::as_str), Some("30001"));
        let address = plan.env.get("OLLAMA_HOST").map(String::as_str);
        assert_eq!(address, (runtime == RuntimeKind::Ollama).then_some("127.0.0.1:30001"));
    }
}

#[test]
fn a_missing_program_is_seen_before_its_model_is_fetched() {
    let (_dir, path) = programs(&["vllm"]);
    let check = |runtime, command: &[&str]| {
        let mut spec = spec(runtime, Some("s3://bucket/key"));
        spec.env.insert("PATH".to_owned(), path.clone());
        spec.command = command.iter().map(|word| (*word).to_owned()).collect();
        check_program(&spec, &tools()).map_err(|error| error.to_string())
    };
    assert_eq!(check(RuntimeKind::Vllm, &[]), Ok(()));
    let error = check(RuntimeKind::Tgi, &[]).expect_err("it is not there");
    assert!(error.starts_with("the program \"text-generation-launcher\" is not on this node"), "{error}");
    let command = ["{model}/serve"];
    assert_eq!(check(RuntimeKind::Tgi, &command), Ok(()), "nobody knows it before the model is there");
}

#[test]
fn a_fetched_model_stands_in_for_its_source() {
    let (_dir, path) = programs(&["vllm", "text-generation-launcher", "llama-server"]);
    let dir = files(&["m.gguf"]);
    let file = dir.path().join("m.gguf");
    let shown = file.display();
    for (runtime, source, begin) in [
        (RuntimeKind::Vllm, "s3://bucket/key", format!("serve {shown} --host")),
        (RuntimeKind::Vllm, "hf://org/name@v1", format!("serve {shown} --host")),
        (RuntimeKind::Tgi, "s3://bucket/key", format!("--model-id {shown} --hostname")),
        (RuntimeKind::Llamacpp, "hf://org/name", format!("--model {shown} --alias")),
        (RuntimeKind::Llamacpp, "s3://bucket/m.gguf", format!("--model {shown} --alias")),
    ] {
        let mut spec = spec(runtime, Some(source));
        spec.env.insert("PATH".to_owned(), path.clone());
        let found = line(&spec, 0, Some(&file));
        assert!(found.starts_with(&begin), "{found}");
        assert!(!found.contains("--revision"), "{found}");
    }
    let gone = line(&spec(RuntimeKind::Vllm, Some("s3://bucket/key")), 0, Some(Path::new("/no/such")));
    assert!(gone.contains("there is no model file /no/such"), "{gone}");
}

#[test]
fn a_command_replaces_the_line_and_placeholders_are_filled_in() {
    let mut spec = spec(RuntimeKind::Vllm, None);
    spec.command = ["sh", "-c", "serve {model} as {name}"].map(str::to_owned).into();
    spec.args = vec!["--on={port}".to_owned()];
    spec.env.insert("WHERE".to_owned(), "http://127.0.0.1:{port}/{name}".to_owned());
    assert_eq!(line(&spec, 0, None), "-c serve some-model as served --on=30001");
    let plan = plan(&spec, 30_001, &tools(), &[], None).expect("a plan");
    assert_eq!(plan.env.get("WHERE").map(String::as_str), Some("http://127.0.0.1:30001/served"));
    assert!(!plan.env.contains_key("CUDA_VISIBLE_DEVICES"));
    assert!(plan.program.ends_with("sh"));
    spec.command = vec![String::new()];
    assert_eq!(line(&spec, 0, None), "the command is empty");
}

#[test]
fn a_command_takes_models_that_the_runtime_does_not() {
    let mut spec = spec(RuntimeKind::Ollama, Some("fs:///etc/hostname"));
    assert!(
        line(&spec, 0, None).starts_with("ollama cannot take the model fs:///etc/hostname; use ollama://")
    );
    spec.command = words("sh {model}");
    assert_eq!(line(&spec, 0, None), "/etc/hostname");
}

#[test]
fn what_the_user_sets_is_not_set_twice() {
    let (_dir, path) = programs(&["vllm", "text-generation-launcher", "llama-server"]);
    for (runtime, args, flag) in [
        (RuntimeKind::Vllm, "--tensor-parallel-size=2", "--tensor-parallel-size"),
        (RuntimeKind::Vllm, "--pipeline-parallel-size 4", "--tensor-parallel-size"),
        (RuntimeKind::Tgi, "--num-shard 2", "--num-shard"),
        (RuntimeKind::Llamacpp, "--n-gpu-layers 10", "--n-gpu-layers"),
        (RuntimeKind::Llamacpp, "-ngl 10", "--n-gpu-layers"),
    ] {
        let mut spec = spec(runtime, Some("fs:///etc/hostname"));
        spec.env.insert("PATH".to_owned(), path.clone());
        let by_itself = line(&spec, 4, None);
        assert!(by_itself.contains(flag), "{by_itself}");
        spec.args = words(args);
        let line = line(&spec, 4, None);
        assert!(line.ends_with(args), "{line}");
        assert_eq!(line.matches(flag).count(), args.matches(flag).count(), "{line}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let nowhere = |mut spec: Spec| {
        spec.env.insert("PATH".to_owned(), "/nowhere".to_owned());
        line(&spec, 0, None)
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
    let plain = nowhere(spec(RuntimeKind::Llamacpp, None));
    assert!(plain.contains("use a model file, fs:///path/to/model.gguf"), "{plain}");
    let not_fetched = nowhere(spec(RuntimeKind::Vllm, Some("s3://b/k")));
    assert_eq!(not_fetched, "the model s3://b/k has not been fetched to this node");
    let device = nowhere(spec(RuntimeKind::Vllm, Some("fs:///dev/zero")));
    assert_eq!(device, "/dev/zero is neither a file nor a directory");
}

#[test]
fn a_runtime_says_which_models_it_takes() {
    let takes = |runtime, source| {
        let text = line(&spec(runtime, source), 0, None);
        !text.contains("cannot take the model")
    };
    let sources =
        [None, Some("hf://org/name"), Some("ollama://llama3.2:1b"), Some("fs:///etc"), Some("s3://b/k")];
    for (runtime, expected) in [
        (RuntimeKind::Vllm, [true, true, false, true, true]),
        (RuntimeKind::Tgi, [true, true, false, true, true]),
        (RuntimeKind::Ollama, [true, false, true, false, false]),
        (RuntimeKind::Triton, [false, false, false, true, true]),
        (RuntimeKind::Llamacpp, [false, true, false, true, true]),
        (RuntimeKind::Sim, [true; 5]),
    ] {
        assert_eq!(sources.map(|source| takes(runtime, source)), expected, "{runtime}");
    }
}

#[test]
fn files_outside_the_roots_are_refused_links_followed() {
    let (inside, outside) = (files(&["a/m.gguf"]), files(&["secret.gguf"]));
    let root = inside.path();
    std::os::unix::fs::symlink(outside.path().join("secret.gguf"), root.join("link.gguf")).expect("a link");
    std::os::unix::fs::symlink(root.join("a"), root.join("loop")).expect("a link");
    let (_dir, path) = programs(&["llama-server"]);
    let try_path = |path_of_model: String| {
        let mut spec = spec(RuntimeKind::Llamacpp, Some(&format!("fs://{path_of_model}")));
        spec.env.insert("PATH".to_owned(), path.clone());
        let tools = Tools { fs_roots: vec![root.to_owned(), "/no/such/root".into()], ..tools() };
        plan(&spec, 30_001, &tools, &[], None).map(drop).map_err(|error| error.to_string())
    };
    let at = |dir: &Path, name: &str| dir.join(name).display().to_string();
    for good in ["a/m.gguf", "loop/m.gguf", "a", "a/../a/m.gguf"] {
        assert_eq!(try_path(at(root, good)), Ok(()), "{good}");
    }
    let up =
        format!("../{}/secret.gguf", outside.path().file_name().and_then(|n| n.to_str()).expect("a name"));
    for bad in [
        at(root, "link.gguf"),
        at(root, &up),
        at(outside.path(), "secret.gguf"),
        at(outside.path(), "none"),
        at(root, "x/../../none"),
    ] {
        let error = try_path(bad.clone()).expect_err("refused");
        assert!(
            error.starts_with(&format!("the model file {bad} is not inside {}, ", root.display())),
            "{error}"
        );
    }
    let missing = try_path(at(root, "none.gguf")).expect_err("refused");
    assert!(missing.starts_with("there is no model file"), "{missing}");
}

#[test]
fn llamacpp_finds_the_model_in_a_directory() {
    let (_dir, path) = programs(&["llama-server"]);
    let served = |names: &[&str]| {
        let dir = files(names);
        let mut spec = spec(RuntimeKind::Llamacpp, Some(&format!("fs://{}", dir.path().display())));
        spec.env.insert("PATH".to_owned(), path.clone());
        line(&spec, 0, None).replace(&dir.path().display().to_string(), "DIR")
    };
    assert!(served(&["m.gguf", "README.md", "mmproj-m.gguf"]).starts_with("--model DIR/m.gguf "));
    let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
    assert!(served(&parts).starts_with("--model DIR/m-00001-of-00002.gguf "));
    assert!(served(&parts[..1]).starts_with("there is no model file DIR/m-00002-of-00002.gguf"));
    assert!(served(&["a.gguf", "b.gguf"]).starts_with("there are several .gguf files in DIR; "));
    assert_eq!(served(&["README.md"]), "there is no .gguf file in DIR");
}

#[test]
fn ports_and_gpus_are_not_the_deployments_to_set() {
    for name in ["PORT", "CUDA_VISIBLE_DEVICES"] {
        let mut spec = spec(RuntimeKind::Sim, None);
        spec.env.insert(name.to_owned(), "0".to_owned());
        let error = line(&spec, 0, None);
        assert!(error.starts_with(&format!("the deployment may not set {name}: ")), "{error}");
    }
    let mut free = spec(RuntimeKind::Sim, None);
    free.env.insert("LD_PRELOAD".to_owned(), "libtcmalloc.so".to_owned());
    assert_eq!(line(&free, 0, None), "sim-runtime --port 30001 --model served");
}

#[test]
fn models_are_kept_where_the_node_says() {
    let (_dir, path) = programs(&["vllm", "ollama"]);
    for (runtime, variable, below) in
        [(RuntimeKind::Vllm, "HF_HOME", "huggingface"), (RuntimeKind::Ollama, "OLLAMA_MODELS", "ollama")]
    {
        let mut spec = spec(runtime, None);
        spec.env.insert("PATH".to_owned(), path.clone());
        let tools = Tools { model_dir: Some("/models".into()), ..tools() };
        let plan = plan(&spec, 30_001, &tools, &[], None).expect("a plan");
        let own = std::env::var(variable).ok();
        let expected = own.unwrap_or_else(|| format!("/models/{below}"));
        assert_eq!(plan.env.get(variable), Some(&expected));
    }
}
