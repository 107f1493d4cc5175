//! Models that are on the node already.

use std::os::unix::fs::symlink;

use nebula_core::runtime::RuntimeKind;

use super::stand_in::StandIn;
use super::{World, spec};
use crate::models::Kind;
use crate::progress::Reporter;

#[tokio::test]
async fn files_are_taken_from_inside_the_roots_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    std::fs::create_dir_all(&root).expect("made");
    std::fs::create_dir_all(&outside).expect("made");
    std::fs::write(root.join("a.gguf"), "a").expect("written");
    std::fs::write(outside.join("b.gguf"), "b").expect("written");
    symlink(outside.join("b.gguf"), root.join("link.gguf")).expect("linked");
    let world = World::with(StandIn::start().await, |settings| settings.fs_roots = vec![root.clone()]);
    for (name, is_fine) in
        [("a.gguf", true), ("none.gguf", false), ("link.gguf", false), ("../outside/b.gguf", false)]
    {
        let path = root.join(name).display().to_string();
        let found = world.models.find(&path).await;
        let replica = spec(RuntimeKind::Llamacpp, &format!("fs://{path}"));
        let fetched = world.models.fetch(&replica, &Reporter::default()).await;
        if is_fine {
            assert!(found.expect(name).ends_with("a.gguf"));
            assert_eq!(fetched.expect(name), None);
        } else {
            assert_eq!(found.expect_err(name).kind, Kind::NotFound);
            assert!(fetched.expect_err(name).to_string().starts_with("model: "), "{name}");
        }
    }
}
