//! Restarts: what of masters stays known while the sidecar is away, and until they have come back.

use serde_json::Value as Json;

use crate::harness::master::Scripted;
use crate::register::{Scene, TOKEN};

/// So many masters that their ends take longer than the last transaction of the shared file.
const MANY: usize = 200;

fn mail(port: u16) -> Scripted {
    Scripted::join(port, TOKEN, &[("mail", rmpv::Value::Array(Vec::new()))])
}

/// The masters as the shared file has them, which nobody writes.
fn left(scene: &Scene) -> Vec<Json> {
    let path = scene.roster.shared_file();
    let told = scene.roster.cli(["masters", "-o", "json", "--shared", path.to_str().expect("a path")]).json();
    told["masters"].as_array().expect("a list").clone()
}

#[test]
fn a_stop_in_order_writes_no_master_out_of_the_shared_file() {
    let mut scene = Scene::new();
    let _masters: Vec<_> = (0..MANY).map(|_| mail(scene.port)).collect();
    scene.has(MANY);
    assert!(scene.roster.stop().success());
    assert_eq!(left(&scene).len(), MANY);
}
