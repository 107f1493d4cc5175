//! The description of the management API says what is there: every route, and every field of what is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nebulad::actors::session::{self, Report};
use nebulad::domain::deployment::Deployment;
use nebulad::domain::node::{GpuStats, NodeHealth, NodeStats};
use nebulad::domain::report::{NodeReport, Progress, ReplicaReport, ReportedStatus, Seen};
use serde_json::{Value, json};

use super::control_plane::Nebulad;

mod schema;

use schema::faults;

const NODE: &str = "550e8400-e29b-41d4-a716-446655440000";

/// Holds what is answered at `path` to what is described of it.
pub(super) async fn answered_as_described(nebulad: &Nebulad, path: &str, described: &str) -> Value {
    let answer = nebulad.get(&format!("/api/v1{path}")).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    let doc = description(nebulad).await;
    let schema = &doc["paths"][described]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{described} is described");
    assert_eq!(faults(&doc, schema, &answer.body, path), Vec::<String>::new(), "{}", answer.text);
    answer.body
}

async fn description(nebulad: &Nebulad) -> Value {
    let answer = nebulad.get_as_nobody("/api/v1/openapi.json").await;
    assert_eq!(answer.status, 200, "it needs no token");
    answer.body
}

/// Every method and path that is described: `GET /nodes/{}`.
fn described(doc: &Value) -> BTreeMap<String, &Value> {
    let mut all = BTreeMap::new();
    for (path, item) in doc["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            if method != "parameters" {
                all.insert(format!("{} {path}", method.to_uppercase()), operation);
            }
        }
    }
    all
}

/// A path whose variable parts have no names.
fn nameless(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// Every method and path that a source file mounts. Words to choose from are several paths.
fn mounted(source: &str) -> Vec<String> {
    let mut all = Vec::new();
    for resource in source.split("web::resource(\"").skip(1) {
        let (path, rest) = resource.split_once('"').expect("the end of a path");
        let path = path.strip_prefix("/api/v1").unwrap_or(path);
        let choice = path
            .split_once("{action:")
            .map(|(before, rest)| (before, rest.split_once('}').expect("its end")));
        let paths: Vec<String> = match choice {
            None => vec![path.to_owned()],
            Some((before, (words, after))) => {
                words.split('|').map(|word| format!("{before}{word}{after}")).collect()
            }
        };
        for call in rest.split(".route(web::").skip(1) {
            let method = call.split_once('(').expect("a method").0.to_uppercase();
            all.extend(paths.iter().map(|path| format!("{method} {}", nameless(path))));
        }
    }
    all
}

#[test]
fn routes_are_found_in_the_source() {
    let source = r#"cfg.service(web::resource("/a").route(web::get().to(x)).route(web::post().to(y)))
        .service(web::resource("/a/{name}/{action:go|stay}").route(web::post().to(z)))"#;
    assert_eq!(mounted(source), ["GET /a", "POST /a", "POST /a/{}/go", "POST /a/{}/stay"]);
}

#[actix_rt::test]
async fn what_is_mounted_is_described_and_nothing_else() {
    let nebulad = Nebulad::start().await;
    let doc = description(&nebulad).await;
    let described: BTreeSet<String> =
        described(&doc).into_keys().map(|route| nameless_route(&route)).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/api");
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    let sources = files.iter().map(|file| std::fs::read_to_string(file).expect("a text"));
    let mounted: BTreeSet<String> = sources.flat_map(|source| mounted(&source)).collect();
    assert!(mounted.len() > 30, "{mounted:?}");
    assert_eq!(described, mounted);
    nebulad.stop().await;
}

fn nameless_route(route: &str) -> String {
    let (method, path) = route.split_once(' ').expect("a method");
    format!("{method} {}", nameless(path))
}

#[actix_rt::test]
async fn the_description_holds_together() {
    let nebulad = Nebulad::start().await;
    let doc = description(&nebulad).await;
    assert_eq!(
        (&doc["openapi"], &doc["info"]["version"]),
        (&json!("3.1.0"), &json!(env!("CARGO_PKG_VERSION")))
    );
    each(&doc, &mut |value| {
        if let Some(target) = value["$ref"].as_str() {
            assert!(doc.pointer(target.trim_start_matches('#')).is_some(), "{target} is not there");
        }
    });
    let mut ids = BTreeSet::new();
    for (route, operation) in described(&doc) {
        assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_owned()), "{route}");
        assert!(operation["responses"].as_object().is_some_and(|responses| responses.len() > 1), "{route}");
        let path = route.split_once(' ').expect("a method").1;
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters = doc["paths"][path]["parameters"].as_array().cloned().unwrap_or_default();
        assert_eq!(names.count(), parameters.len(), "{route}");
    }
    nebulad.stop().await;
}

fn each(value: &Value, look: &mut impl FnMut(&Value)) {
    look(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|value| each(value, look)),
        Value::Array(values) => values.iter().for_each(|value| each(value, look)),
        _ => {}
    }
}

/// One of each noun, by which the description's paths can be filled in.
async fn furnished() -> (Nebulad, BTreeMap<&'static str, String>) {
    let nebulad = Nebulad::start().await;
    nebulad.register(NODE).await;
    nebulad.create("demo").await;
    nebulad.create("spare").await;
    let key = nebulad.post("/api/v1/keys", &json!({"name": "ci", "rpm": 5})).await;
    assert_eq!(key.status, 201, "{}", key.text);
    let alias =
        json!({"name": "chat", "targets": [{"deployment": "demo", "weight": 1}], "fallback": "spare"});
    let alias = nebulad.post("/api/v1/aliases", &alias).await;
    assert_eq!(alias.status, 201, "{}", alias.text);
    let drained = nebulad.post(&format!("/api/v1/nodes/{NODE}/drain"), &Value::Null).await;
    assert_eq!(drained.status, 202, "{}", drained.text);
    let operation = drained.body["operation"].as_str().expect("an operation").to_owned();
    let names = BTreeMap::from([
        ("{deployment}", "demo".to_owned()),
        ("{node}", NODE.to_owned()),
        ("{alias}", "chat".to_owned()),
        ("{key}", "ci".to_owned()),
        ("{operation}", operation),
    ]);
    (nebulad, names)
}

#[actix_rt::test]
async fn what_is_described_is_answered_as_it_says() {
    let (nebulad, names) = furnished().await;
    let doc = description(&nebulad).await;
    // What ends things comes last.
    let mut routes: Vec<(String, &Value)> = described(&doc).into_iter().collect();
    routes.sort_by_key(|(route, _)| route.starts_with("DELETE"));
    for (route, operation) in routes {
        let (method, path) = route.split_once(' ').expect("a method");
        let path = names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
        let body = operation["requestBody"].is_object().then(|| json!({}));
        let answer = nebulad.ask(method, &format!("/api/v1{path}"), body.as_ref()).await;
        assert!(!matches!(answer.status, 404 | 405 | 500), "{route}: {} {}", answer.status, answer.text);
        let responses = &operation["responses"];
        let said = responses.get(answer.status.to_string()).unwrap_or(&responses["default"]);
        let said =
            said["$ref"].as_str().map_or(said, |at| doc.pointer(at.trim_start_matches('#')).expect(at));
        let schema = &said["content"]["application/json"]["schema"];
        if schema.is_object() {
            assert_eq!(faults(&doc, schema, &answer.body, &route), Vec::<String>::new(), "{}", answer.text);
        }
    }
    nebulad.stop().await;
}

#[actix_rt::test]
async fn nouns_with_everything_in_them_are_as_they_are_described() {
    let nebulad = Nebulad::start().await;
    let doc = description(&nebulad).await;
    let check = |what: &str, value: &Value| {
        let schema = json!({"$ref": format!("#/components/schemas/{what}")});
        assert_eq!(faults(&doc, &schema, value, what), Vec::<String>::new(), "{value}");
    };
    nebulad.register(NODE).await;
    let full = json!({
        "name": "full", "model": "m", "runtime": "sim", "image": "a", "driver": "docker", "command": ["a"],
        "args": ["b"], "env": {"A": "1"}, "replicas": 2, "gpu": {"count": 0}, "cpu": {"cores": 0}, "public": true,
        "lost_after": "never", "routing": "prefix", "placement": "spread", "strategy": "recreate",
        "drain_timeout": "2m", "autoscale": {"min": 0, "max": 4, "cooldown": 5},
    });
    check("DeploymentCreate", &full);
    let made = nebulad.post("/api/v1/deployments", &full).await;
    assert_eq!(made.status, 201, "{}", made.text);
    check("Deployment", &made.body);
    let mut patched: BTreeSet<&String> = doc["components"]["schemas"]["DeploymentPatch"]["properties"]
        .as_object()
        .expect("fields")
        .keys()
        .collect();
    let spec = made.body["spec"].as_object().expect("a spec");
    assert_eq!(patched, spec.keys().collect(), "all of what is wanted can be changed");
    let create = doc["components"]["schemas"]["DeploymentCreate"]["properties"].as_object().expect("fields");
    let name = "name".to_owned();
    patched.insert(&name);
    assert_eq!(patched, create.keys().collect());

    let placed = |dep: &Deployment| dep.replicas.iter().all(|one| one.placement.is_some());
    nebulad.until_deployment(|dep| !dep.replicas.is_empty() && placed(dep)).await;
    let dep = nebulad.app().system.deployments(None, 1)[0].clone();
    let replicas = dep.replicas.iter().map(|replica| ReplicaReport {
        deployment_id: dep.id,
        replica_id: replica.id,
        generation: replica.generation,
        status: if replica.index == 0 { ReportedStatus::Failed } else { ReportedStatus::Preparing },
        container_id: "c".to_owned(),
        port: 30_000,
        message: "exited: no luck".to_owned(),
        restarts: 1,
        exit_code: (replica.index == 0).then_some(3),
        seen: Seen {
            progress: Some(Progress { percent: Some(30), message: "pulling".to_owned() }),
            ..Seen::default()
        },
    });
    let report = NodeReport {
        stats: Some(NodeStats { gpu_stats: vec![GpuStats::default()], ..NodeStats::default() }),
        health: Some(NodeHealth::default()),
        replicas: replicas.collect(),
        ..NodeReport::default()
    };
    let path = session::path(&NODE.parse().expect("an id"));
    nebulad.app().system.sessions.ask(&path, Report(report)).await.expect("taken");
    nebulad.until_deployment(|dep| dep.replicas[0].message.contains("no luck")).await;

    check("Deployment", &nebulad.get("/api/v1/deployments/full").await.body);
    let why = nebulad.get("/api/v1/deployments/full/why").await.body;
    check("Why", &why);
    let last = why["replicas"][0]["attempts"].as_array().and_then(|all| all.last()).expect("an attempt");
    assert_eq!((&last["type"], &last["exit_code"]), (&json!("failed"), &json!(3)), "{why}");
    check("Node", &nebulad.get(&format!("/api/v1/nodes/{NODE}")).await.body);
    nebulad.stop().await;
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let doc = json!({"a": {"type": "string", "enum": ["x"]}});
    let schema = json!({"type": "object", "required": ["r"], "properties": {
        "r": {"type": ["integer", "null"], "minimum": 1}, "a": {"$ref": "#/a"}, "t": {"type": "string", "format": "date-time"},
        "o": {"oneOf": [{"type": "integer"}, {"const": "never"}]}, "l": {"type": "array", "items": {"type": "boolean"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}}}});
    let right =
        json!({"r": 1, "a": "x", "t": "2026-01-31T12:00:00Z", "o": "never", "l": [true], "m": {"k": "v"}});
    assert_eq!(faults(&doc, &schema, &right, "it"), Vec::<String>::new());
    for (wrong, part) in [
        (json!([]), "is no object"),
        (json!({}), "\"r\" is missing"),
        (json!({"r": "1"}), "is no integer or null"),
        (json!({"r": 0}), "is too small"),
        (json!({"r": 1, "a": "y"}), "is none of the words"),
        (json!({"r": 1, "t": "today"}), "has another form"),
        (json!({"r": 1, "o": "ever"}), "it.o: "),
        (json!({"r": 1, "l": [1]}), "it.l[0]: 1 is no boolean"),
        (json!({"r": 1, "m": {"k": 1}}), "it.m.k: 1 is no string"),
        (json!({"r": 1, "z": 1}), "it.z is not described"),
    ] {
        let found = faults(&doc, &schema, &wrong, "it").join("; ");
        assert!(found.contains(part), "{wrong}: {found}");
    }
}
