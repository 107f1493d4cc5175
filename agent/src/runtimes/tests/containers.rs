//! Replicas in containers: image, command line, mounts and environment of each runtime, and what is refused.

use super::*;

fn plan_of(spec: &Spec, gpus: usize) -> Result<ContainerPlan, String> {
    container_plan(spec, 30_001, &tools(), &uuids(gpus), None).map_err(|error| error.to_string())
}

/// Everything that a container runs, as one line: the entry point, if it is replaced, in brackets.
fn line(plan: &ContainerPlan) -> String {
    let entrypoint = plan.entrypoint.as_ref().map(|words| format!("[{}] ", words.join(" ")));
    entrypoint.unwrap_or_default() + &plan.command.join(" ")
}

fn default_image(runtime: RuntimeKind) -> Option<&'static str> {
    of(runtime).images.as_ref().map(|images| images.plain)
}

fn env<'a>(plan: &'a ContainerPlan, name: &str) -> Option<&'a str> {
    plan.env.get(name).map(String::as_str)
}

/// What is mounted of the model. Where runtimes keep models is mounted besides when the environment names it.
fn models(plan: &ContainerPlan) -> Vec<&Mount> {
    plan.mounts.iter().filter(|mount| mount.read_only).collect()
}

#[test]
fn the_usual_command_lines() {
    let dir = files(&["repository/model/config.pbtxt", "m.gguf"]);
    let fs = |name: &str| format!("fs://{}", dir.path().join(name).display());
    let cases = [
        (
            RuntimeKind::Vllm,
            "hf://org/name@v1".to_owned(),
            "[vllm] serve org/name --host 0.0.0.0 --port 8000 --served-model-name served --revision v1 --tensor-parallel-size 2",
        ),
        (
            RuntimeKind::Vllm,
            fs("repository"),
            "[vllm] serve /models/repository --host 0.0.0.0 --port 8000 --served-model-name served --tensor-parallel-size 2",
        ),
        (
            RuntimeKind::Tgi,
            "hf://org/name".to_owned(),
            "--model-id org/name --hostname 0.0.0.0 --port 80 --num-shard 2",
        ),
        (RuntimeKind::Ollama, "ollama://llama3.2:1b".to_owned(), "serve"),
        (
            RuntimeKind::Triton,
            fs("repository"),
            "python3 /opt/tritonserver/python/openai/openai_frontend/main.py --model-repository /models/repository \
             --host 0.0.0.0 --openai-port 9000",
        ),
        (
            RuntimeKind::Llamacpp,
            fs("m.gguf"),
            "--model /models/m.gguf --alias served --host 0.0.0.0 --port 8080 --n-gpu-layers 999",
        ),
    ];
    for (runtime, source, expected) in cases {
        let plan = plan_of(&spec(runtime, Some(&source)), 2).expect("a plan");
        assert_eq!(line(&plan), expected);
        assert_eq!((plan.host_port, plan.container_port), (30_001, of(runtime).container_port));
        assert_eq!(env(&plan, "PORT"), Some(&*of(runtime).container_port.to_string()));
        assert_eq!(env(&plan, "NVIDIA_VISIBLE_DEVICES"), Some("GPU-0,GPU-1"));
        assert_eq!(plan.gpu_uuids, uuids(2));
        assert_eq!(plan.health, health(runtime));
        assert_eq!(models(&plan).len(), usize::from(source.starts_with("fs://")));
    }
}

#[test]
fn the_image_is_the_deployments_or_the_runtimes() {
    let image = |spec: &Spec, gpus| plan_of(spec, gpus).map(|plan| plan.image);
    let vllm = spec(RuntimeKind::Vllm, None);
    assert_eq!(image(&vllm, 1).ok().as_deref(), default_image(RuntimeKind::Vllm));
    let own = Spec { image: Some("registry:5000/own:1".to_owned()), ..vllm };
    assert_eq!(image(&own, 1).ok().as_deref(), Some("registry:5000/own:1"));
    let llama = spec(RuntimeKind::Llamacpp, Some("fs:///etc/hostname"));
    let (plain, gpu) = (image(&llama, 0).expect("an image"), image(&llama, 1).expect("an image"));
    assert_eq!(Some(&*plain), default_image(RuntimeKind::Llamacpp));
    assert!(gpu.contains("cuda") && !plain.contains("cuda"), "{gpu}");
    let error = image(&spec(RuntimeKind::Sim, None), 0).expect_err("there is none");
    assert!(error.starts_with("the runtime sim has no image of its own; "), "{error}");
}

#[test]
fn the_simulated_runtime_works_with_any_entry_point() {
    let sim = Spec { image: Some("sim:1".to_owned()), ..spec(RuntimeKind::Sim, Some("fs:///no/such")) };
    let plan = plan_of(&sim, 0).expect("a plan");
    assert_eq!((plan.entrypoint.clone(), plan.command.len()), (None, 0));
    assert_eq!(env(&plan, "NEBULA_SIM_BIND"), Some("0.0.0.0"));
    assert_eq!(env(&plan, "NEBULA_SIM_PORT"), Some("8000"));
    assert_eq!(env(&plan, "NEBULA_SIM_MODEL"), Some("served"));
    assert_eq!((plan.mounts, plan.keep_capabilities.len()), (Vec::new(), 0));
    let more = plan_of(&Spec { args: words("--ttft 1s"), ..sim }, 0).expect("a plan");
    assert_eq!(line(&more), "--ttft 1s");
}

#[test]
fn a_command_replaces_entry_point_and_command() {
    for runtime in RuntimeKind::ALL {
        let mut spec = spec(runtime, Some("fs:///etc/hostname"));
        spec.image = Some("own:1".to_owned());
        spec.command = words("/serve --model {model} --as {name}");
        spec.args = words("--port {port}");
        spec.env.insert("WHERE".to_owned(), "{port}{model}".to_owned());
        let plan = plan_of(&spec, 0).expect("a plan");
        let model = if runtime == RuntimeKind::Sim { "/etc/hostname" } else { "/models/hostname" };
        assert_eq!(line(&plan), format!("[/serve --model {model} --as served] --port 8000"), "{runtime}");
        assert_eq!(plan.container_port, 8_000);
        assert_eq!(env(&plan, "PORT"), Some("8000"));
        assert_eq!(env(&plan, "WHERE"), Some(&*format!("8000{model}")));
    }
    let empty = Spec { command: vec![String::new()], ..spec(RuntimeKind::Vllm, None) };
    assert_eq!(plan_of(&empty, 0).expect_err("refused"), "the command is empty");
}

#[test]
fn models_that_were_fetched_are_mounted() {
    let dir = files(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "whole/config.json"]);
    let plan = |runtime, source, path: &str| {
        let local = dir.path().join(path);
        container_plan(&spec(runtime, Some(source)), 30_001, &tools(), &[], Some(&local)).expect("a plan")
    };
    let parts = plan(RuntimeKind::Llamacpp, "hf://org/name", "m-00001-of-00002.gguf");
    assert!(line(&parts).starts_with("--model /models/m-00001-of-00002.gguf "), "{}", line(&parts));
    assert_eq!(models(&parts).len(), 2, "with all of its parts");
    let whole = plan(RuntimeKind::Vllm, "s3://bucket/whole", "whole");
    assert!(line(&whole).starts_with("[vllm] serve /models/whole "), "{}", line(&whole));
    assert_eq!(env(&whole, "HF_HUB_OFFLINE"), Some("1"));
    let not_fetched = plan_of(&spec(RuntimeKind::Vllm, None), 0).expect("a plan");
    assert_eq!(env(&not_fetched, "HF_HUB_OFFLINE"), None);
}

#[test]
fn what_a_link_leads_to_is_mounted_under_the_links_name() {
    let dir = files(&["blobs/123", "models--org--name/blobs/456", "models--org--name/snapshots/rev/README"]);
    let at = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink(at("blobs/123"), at("m.gguf")).expect("a link");
    let fs = |name: &str| format!("fs://{}", at(name).display());
    let plan = plan_of(&spec(RuntimeKind::Llamacpp, Some(&fs("m.gguf"))), 0).expect("a plan");
    let host = at("blobs/123").canonicalize().expect("a path");
    assert_eq!(models(&plan), [&Mount { host, container: "/models/m.gguf".to_owned(), read_only: true }]);
    // A snapshot of the hub's cache links to what is beside it.
    let snapshot = fs("models--org--name/snapshots/rev");
    let plan = plan_of(&spec(RuntimeKind::Vllm, Some(&snapshot)), 0).expect("a plan");
    assert!(
        line(&plan).starts_with("[vllm] serve /models/models--org--name/snapshots/rev "),
        "{}",
        line(&plan)
    );
    assert_eq!(models(&plan).len(), 1);
    assert!(models(&plan)[0].host.ends_with("models--org--name"));
}

#[test]
fn what_runtimes_fetch_outlives_their_containers() {
    let dir = tempfile::tempdir().expect("a directory");
    let tools = Tools { model_dir: Some(dir.path().join("deep/models")), ..tools() };
    for (runtime, source, below, inside, variable) in [
        (RuntimeKind::Vllm, "hf://o/n", "huggingface", "/root/.cache/huggingface", "HF_HOME"),
        (RuntimeKind::Tgi, "hf://o/n", "huggingface", "/data", "HF_HOME"),
        (RuntimeKind::Ollama, "ollama://m", "ollama", "/root/.ollama/models", "OLLAMA_MODELS"),
        (RuntimeKind::Llamacpp, "hf://o/n", "llamacpp", "/root/.cache/llama.cpp", "LLAMA_CACHE"),
    ] {
        if let Some(own) = std::env::var_os(variable) {
            println!("not checked: {runtime}, as {variable} is set here, to {}", own.display());
            continue;
        }
        let plan = container_plan(&spec(runtime, Some(source)), 30_001, &tools, &[], None).expect("a plan");
        let host = dir.path().join("deep/models").join(below).canonicalize().expect("it was made");
        assert_eq!(
            plan.mounts,
            [Mount { host: host.clone(), container: inside.to_owned(), read_only: false }]
        );
        assert_eq!(env(&plan, variable), Some(inside));
        // What is fetched there needs no mount of its own.
        let local = host.join("hub/model");
        std::fs::create_dir_all(&local).expect("a directory");
        std::fs::write(local.join("x.gguf"), "").expect("a file");
        if runtime != RuntimeKind::Ollama {
            let spec = spec(runtime, Some("s3://bucket/key"));
            let plan = container_plan(&spec, 30_001, &tools, &[], Some(&local)).expect("a plan");
            assert_eq!(plan.mounts.len(), 1);
            assert!(line(&plan).contains(&format!(" {inside}/hub/model")), "{}", line(&plan));
        }
    }
    let file = Tools { model_dir: Some("/etc/hostname".into()), ..tools };
    if std::env::var_os("HF_HOME").is_none() {
        let vllm = spec(RuntimeKind::Vllm, None);
        let error = container_plan(&vllm, 30_001, &file, &[], None).expect_err("refused").to_string();
        assert!(error.starts_with("the directory /etc/hostname/huggingface for models "), "{error}");
    }
}

#[test]
fn only_what_is_named_gets_in_of_the_agents_environment() {
    let plan = plan_of(&Spec { image: Some("image:1".to_owned()), ..spec(RuntimeKind::Sim, None) }, 0)
        .expect("a plan");
    for name in ["PATH", "HOME", "HF_TOKEN", "CARGO_MANIFEST_DIR"] {
        assert_eq!(env(&plan, name), None, "{name}");
    }
    assert_eq!(env(&plan, "NVIDIA_VISIBLE_DEVICES"), Some("void"), "no GPU was given");
}

#[test]
fn what_keeps_containers_apart_is_not_the_deployments_to_set() {
    for name in
        ["PORT", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LD_PRELOAD"]
    {
        let mut spec = spec(RuntimeKind::Vllm, None);
        spec.env.insert(name.to_owned(), "all".to_owned());
        let error = plan_of(&spec, 0).expect_err("refused");
        assert!(error.starts_with(&format!("the deployment may not set {name}: ")), "{error}");
    }
    let mut free = spec(RuntimeKind::Vllm, None);
    free.env.insert("HF_TOKEN".to_owned(), "its own".to_owned());
    assert_eq!(env(&plan_of(&free, 0).expect("a plan"), "HF_TOKEN"), Some("its own"));
}

#[test]
fn files_outside_the_roots_do_not_get_in() {
    let (inside, outside) = (files(&["snapshots/rev/m.gguf"]), files(&["secret.gguf"]));
    std::os::unix::fs::symlink(outside.path().join("secret.gguf"), inside.path().join("link.gguf"))
        .expect("a link");
    let plan = |root: &Path, path: &str, local: Option<&Path>| {
        let source = format!("fs://{}", inside.path().join(path).display());
        let tools = Tools { fs_roots: vec![root.to_owned()], ..tools() };
        container_plan(&spec(RuntimeKind::Vllm, Some(&source)), 30_001, &tools, &[], local)
    };
    let error = plan(inside.path(), "link.gguf", None).expect_err("refused").to_string();
    assert!(error.contains("is not inside") && error.contains("--model-root"), "{error}");
    // Nothing around a snapshot is mounted when it is outside.
    let root = inside.path().join("snapshots");
    let plan_inside = plan(&root, "snapshots/rev", None).expect("a plan");
    let mounts = models(&plan_inside);
    assert!(mounts.len() == 1 && mounts[0].host.ends_with("snapshots/rev"), "{mounts:?}");
    // What the agent fetched itself is not the user's path.
    let local = outside.path().join("secret.gguf");
    assert!(plan(inside.path(), "none", Some(&local)).is_ok());
}
