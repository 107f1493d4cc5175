//! Exports: what is in them, which stay, and what can be rebuilt from them.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test's helpers may fail the test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use nebula_core::exit::{Exit, Fatal};
use nebula_store::{
    Batch, ExportError, ImportError, OpenError, Options, Record, Store, export_dir, import, verify_export,
    verify_store,
};

fn options() -> Options {
    Options { ballast_bytes: 0, export_every: None, ..Options::default() }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, options()).unwrap()
}

fn record(n: usize) -> Record {
    Record { kind: 1, schema: 1, payload: n.to_be_bytes().to_vec() }
}

fn key(n: usize) -> Vec<u8> {
    format!("n/{n:05}").into_bytes()
}

async fn put(store: &Store, numbers: std::ops::Range<usize>) {
    for n in numbers {
        store.commit(Batch::new().put(key(n), record(n))).await.unwrap();
    }
}

async fn holds(store: &Store, numbers: std::ops::Range<usize>) {
    let wanted = numbers.map(|n| (key(n), record(n))).collect::<Vec<_>>();
    assert_eq!(store.scan(b"n/".to_vec()).await.unwrap(), wanted);
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let names = dir.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut files = names.filter(|path| path.to_str().unwrap().ends_with(ending)).collect::<Vec<_>>();
    files.sort();
    files
}

/// Names in the data directory that start with `prefix`.
fn aside(dir: &Path, prefix: &str) -> usize {
    let names = dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with(prefix)).count()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_is_exported_can_be_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let file = dir.path().join("all.export");
    let store = open(&from);
    put(&store, 0..50).await;
    let live = store.export_now(Some(file.clone())).await.unwrap();
    assert_eq!((live.path.as_path(), live.bytes), (file.as_path(), file.metadata().unwrap().len()));
    assert!(matches!(export_dir(&from, &file), Err(OpenError::InUse { .. })));
    store.close();
    assert!(files(dir.path(), "unfinished").is_empty());
    assert!(!from.join("exports").exists(), "it is none of the store's own");

    let verified = verify_export(&file).unwrap();
    assert_eq!((verified.records, verified.seq, verified.at), (live.records, live.seq, live.at));
    let stopped = export_dir(&from, &dir.path().join("stopped.export")).unwrap();
    assert_eq!((stopped.records, stopped.seq), (live.records, live.seq));

    import(&to, &file, false).unwrap();
    let info = verify_store(&to).unwrap();
    assert_eq!((info.records, info.set_aside), (50, 0));
    let restored = info.restored.unwrap();
    assert_eq!(restored.export_at, Some(live.at));
    assert!(restored.why.contains("import"), "{restored:?}");
    let store = open(&to);
    store.accept_restored().await.unwrap();
    holds(&store, 0..50).await;
    put(&store, 50..60).await;
    store.close();
    holds(&open(&to), 0..60).await;
}

#[tokio::test]
async fn import_replaces_a_store_only_by_force_and_sets_it_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let file = dir.path().join("all.export");
    let store = open(&from);
    put(&store, 0..5).await;
    store.export_now(Some(file.clone())).await.unwrap();
    store.close();
    let store = open(&to);
    put(&store, 100..140).await;
    store.export_now(None).await.unwrap();
    put(&store, 140..150).await;
    assert!(matches!(import(&to, &file, true), Err(ImportError::Store(OpenError::InUse { .. }))));
    store.close();

    let refused = import(&to, &file, false).unwrap_err();
    assert!(matches!(refused, ImportError::NotEmpty { .. }));
    let fatal = Fatal::from(refused);
    assert_eq!(fatal.exit, Exit::DataDir);
    assert!(fatal.hint.unwrap().contains("--force"));
    let store = open(&to);
    holds(&store, 100..150).await;
    store.close();

    import(&to, &file, true).unwrap();
    assert_eq!((aside(&to, "db.replaced-"), aside(&to, "db.corrupt-")), (1, 0));
    // Neither the log nor the exports of the store that was replaced come back, not even when the engine is lost.
    for _ in 0..2 {
        let store = open(&to);
        holds(&store, 0..5).await;
        assert!(store.status().restored.is_some(), "an import has to be accepted");
        store.close();
        fs::remove_dir_all(to.join("db")).unwrap();
    }
}

#[tokio::test]
async fn an_export_with_any_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("all.export");
    let store = open(&dir.path().join("from"));
    put(&store, 0..3).await;
    store.export_now(Some(file.clone())).await.unwrap();
    store.close();
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        flip(&file, at);
        let error = verify_export(&file).unwrap_err();
        assert!(matches!(error, ExportError::Damaged { .. }), "byte {at}: {error}");
        fs::write(&file, &good).unwrap();
    }
    for length in 0..good.len() {
        fs::write(&file, &good[..length]).unwrap();
        assert!(matches!(verify_export(&file), Err(ExportError::Damaged { .. })), "cut to {length}");
    }
    let to = dir.path().join("to");
    let error = import(&to, &file, false).unwrap_err();
    assert_eq!(Fatal::from(error).exit, Exit::Disk);
    assert!(!to.exists());
    let missing = import(&to, &dir.path().join("missing"), false).unwrap_err();
    assert_eq!(Fatal::from(missing).exit, Exit::DataDir);
}

#[tokio::test]
async fn the_log_reaches_back_to_the_second_newest_export() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for round in 0..15 {
        put(&store, round * 10..round * 10 + 10).await;
        store.export_now(None).await.unwrap();
        put(&store, round * 10 + 5..round * 10 + 10).await;
    }
    store.close();
    let exports = files(&dir.path().join("exports"), ".export");
    assert_eq!(exports.len(), 12, "the newest stay, and today's newest is among them");
    assert_eq!(files(&dir.path().join("redo"), ".redo").len(), 2, "what both newest exports hold is gone");
    verify_store(dir.path()).unwrap();

    // The newest export and the engine are damaged: the export before and the log are still everything.
    flip(exports.last().unwrap(), 100);
    assert!(matches!(verify_store(dir.path()), Err(OpenError::Damaged { .. })));
    fs::write(dir.path().join("db/db"), b"junk").unwrap();
    let store = open(dir.path());
    holds(&store, 0..150).await;
    assert_eq!(store.status().restored, None);
    assert_eq!(aside(dir.path(), "db.corrupt-"), 1);
}

#[tokio::test]
async fn a_store_that_lacks_something_says_so_until_that_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, 0..10).await;
    let export = store.export_now(None).await.unwrap();
    put(&store, 10..20).await;
    store.close();
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    // Batch 15 after the export is damaged, in the log's last file.
    let log = files(&dir.path().join("redo"), ".redo").pop().unwrap();
    let middle = fs::read(&log).unwrap().len() / 2;
    flip(&log, middle);

    let mut lacks = Vec::new();
    for _ in 0..3 {
        let store = open(dir.path());
        let restored = store.status().restored.unwrap();
        assert_eq!(restored.export.as_deref(), export.path.file_name().unwrap().to_str());
        assert_eq!(restored.export_at, Some(export.at));
        lacks.push(store.scan(b"n/".to_vec()).await.unwrap().len());
        store.close();
    }
    assert_eq!(lacks, [19, 19, 19], "only the damaged batch is lost");
    let store = open(dir.path());
    store.accept_restored().await.unwrap();
    assert_eq!(store.status().restored, None);
    store.close();
    assert_eq!(open(dir.path()).status().restored, None);
}

#[tokio::test]
async fn a_rebuild_that_nothing_vouches_for_is_never_called_whole() {
    // The engine goes with its mark, and what else could tell of the last ten writes is damaged.
    for what in ["no log", "the log's last batch is cut", "a start later, the log before it is gone"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        put(&store, 0..10).await;
        store.export_now(None).await.unwrap();
        put(&store, 10..20).await;
        store.close();
        if what.starts_with("a start") {
            open(dir.path()).close();
        }
        let mut logs = files(&dir.path().join("redo"), ".redo");
        let last = logs.pop().unwrap();
        let bytes = fs::read(&last).unwrap();
        match what {
            "no log" => fs::remove_dir_all(dir.path().join("redo")).unwrap(),
            "the log's last batch is cut" => fs::write(&last, &bytes[..bytes.len() - 3]).unwrap(),
            _ => logs.iter().for_each(|log| fs::remove_file(log).unwrap()),
        }
        fs::remove_dir_all(dir.path().join("db")).unwrap();
        for _ in 0..2 {
            let store = open(dir.path());
            let restored = store.status().restored;
            assert!(restored.is_some_and(|restored| restored.why.contains("missing")), "{what}");
            assert!(store.scan(b"n/".to_vec()).await.unwrap().len() >= 10, "{what}");
            put(&store, 30..31).await;
            store.close();
        }
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_written_is_not_a_damaged_store() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    let refused = export_dir(dir.path(), &dir.path().join("missing/file")).unwrap_err();
    assert!(matches!(refused, OpenError::Target { .. }), "{refused}");
    verify_store(dir.path()).unwrap();
}

#[tokio::test]
async fn a_large_engine_is_compacted_at_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let filler = |n: usize| Record { kind: 1, schema: 1, payload: vec![n as u8; 6000] };
    for n in 0..600 {
        store.commit(Batch::new().put(key(n % 3), filler(n))).await.unwrap();
    }
    let before = store.status().size_bytes;
    store.close();
    let store = Store::open(dir.path(), Options { compact_above_bytes: 1024 * 1024, ..options() }).unwrap();
    assert!(store.status().size_bytes < before / 2, "{} of {before} bytes", store.status().size_bytes);
    let found = store.scan(b"n/".to_vec()).await.unwrap();
    assert_eq!(found, [597, 598, 599].map(|n| (key(n % 3), filler(n))));
    assert_eq!(aside(dir.path(), "db."), 0);
    put(&store, 10..12).await;
    store.close();
    verify_store(dir.path()).unwrap();
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for missing in [dir.path().to_owned(), dir.path().join("missing")] {
        let nothing = verify_store(&missing).unwrap_err();
        assert!(
            matches!(&nothing, OpenError::Unusable { source, .. } if source.to_string() == "there is no store")
        );
        let refused = export_dir(&missing, &dir.path().join("file"));
        assert!(matches!(refused, Err(OpenError::Unusable { .. })));
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}
