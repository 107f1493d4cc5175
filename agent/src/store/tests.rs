//! What becomes of records that this version cannot read.

use nebula_core::clock::WallTime;
use nebula_core::ids::{DeploymentId, Generation, ReplicaId};
use nebula_store::Options;

use super::commands::Done;
use super::fences::Fences;
use super::journal::Journal;
use super::*;
use crate::replica::machine::Entry;

fn unreadable(kind: u8) -> Record {
    Record { kind, schema: records::schema(kind), payload: vec![0xFF; 3] }
}

/// The first key under a prefix.
async fn first_key(store: &Store, prefix: &[u8]) -> Vec<u8> {
    let found = store.scan(prefix.to_vec()).await.expect("reads");
    found.into_iter().next().expect("a record").0
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside_and_the_rest_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), Options { ballast_bytes: 0, ..Options::default() }).expect("opens");

    let mut done = Done::load(store.clone()).await.expect("loads");
    done.insert("one").await.expect("commits");
    done.insert("two").await.expect("commits");
    let fences = Fences::default();
    let (lost, kept) = (ReplicaId::random(), ReplicaId::random());
    let batch = fences.add(Batch::new(), lost, Generation(1)).expect("encodes");
    store.commit(fences.add(batch, kept, Generation(2)).expect("encodes")).await.expect("commits");
    let deployment = DeploymentId::random();
    let line = |text: &str| Entry { kind: "started", message: text.to_owned() };
    let lines = vec![line("lost"), line("kept")];
    let batch = Journal::default().append(Batch::new(), deployment, lines, WallTime(1_000)).expect("encodes");
    store.commit(batch).await.expect("commits");

    let mut damage = Batch::new().put(NODE_KEY, unreadable(records::NODE));
    for (prefix, kind) in [(b"c/", records::COMMAND), (b"f/", records::FENCE), (b"e/", records::JOURNAL)] {
        damage = damage.put(first_key(&store, prefix).await, unreadable(kind));
    }
    let replica = [b"r/", &kept.as_bytes()[..], b"s"].concat();
    damage =
        damage.put(replica.clone(), unreadable(records::SPEC)).put("r/short", unreadable(records::STATE));
    store.commit(damage).await.expect("commits");

    assert_eq!(node_id(&store).await.expect("reads"), None);
    let done = Done::load(store.clone()).await.expect("loads");
    assert!(!done.contains("one") && done.contains("two"));
    let fences = Fences::load(&store).await.expect("loads");
    assert_eq!((fences.newest(lost), fences.newest(kept)), (None, Some(Generation(2))));
    let lines = Journal::load(&store).await.expect("loads").lines(deployment, 10).expect("a journal");
    assert_eq!(lines.iter().map(|line| line.message.as_str()).collect::<Vec<_>>(), ["kept"]);
    assert!(replicas::all(&store).await.expect("reads").is_empty());

    assert_eq!(store.status().set_aside, 6);
    let aside = store.set_aside_list().await.expect("reads");
    let reason = |key: &[u8]| aside.iter().find(|found| found.key == key).map(|found| found.reason.clone());
    assert_eq!(reason(&replica).as_deref(), Some("of kind 2 and schema 2, which is not known here"));
    assert_eq!(reason(b"r/short").as_deref(), Some("its key names no replica"));
    assert!(reason(NODE_KEY).is_some_and(|reason| reason.starts_with("bytes cannot be decoded")));
    assert_eq!(store.get(replica).await, Ok(None));

    // What was set aside is in nobody's way.
    let id = NodeId::random();
    keep_node_id(&store, &id).await.expect("commits");
    assert_eq!(node_id(&store).await.expect("reads"), Some(id));
}
