//! The unmodified package reactphp-x/register-center, where Composer has installed it.

use std::process::Command;

use serde_json::json;

use crate::harness::{Process, exception, is_skipped_unless};
use crate::idl::{CallOptions, CallTimedOut, TRosterSyncClient};
use crate::masters::{fails, gives, offers};
use crate::register::{Scene, TOKEN};

/// Where Composer's autoloader is, of a project that requires the package.
const AUTOLOAD: &str = "ROSTER_REGISTER_CENTER";

#[test]
fn a_master_of_the_unmodified_package_is_called_in_every_way_and_keeps_its_memory() {
    let how = format!(
        "the unmodified package is not here; run `composer require reactphp-x/register-center` in some folder, and set \
         {AUTOLOAD} to the path of its vendor/autoload.php"
    );
    if is_skipped_unless(std::env::var_os(AUTOLOAD).is_some(), &how) {
        return;
    }
    let mut scene = Scene::new();
    let folder = tempfile::tempdir().expect("a folder");
    let mut php = Command::new("php");
    php.args(["-d", "error_reporting=24575", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/php/package.php")]);
    let _php = Process::start(php.args([&scene.port.to_string(), TOKEN]), folder.path());
    offers(&scene, &["sample"]);
    for (method, arguments, expected) in [
        ("echo", json!([null, "é", 1.5, {"k": []}]), vec![json!([null, "é", 1.5, {"k": []}])]),
        ("optional", json!([null]), vec![json!([null, 2])]),
        ("bytes", json!([]), vec![json!({"base64": "/wD+"})]),
        ("empty", json!([]), vec![json!([[], {}])]),
        ("values", json!([]), vec![json!(1), json!("two")]),
        ("later", json!(["late"]), vec![json!("late")]),
        ("stream", json!([]), vec![json!("first"), json!("last")]),
    ] {
        assert_eq!(gives(&scene, "sample", method, arguments), expected, "{method}");
    }
    assert_eq!(fails(&scene, "sample", "fail", json!([])), ("DomainException".into(), "as the test wants".into()));
    let options = CallOptions::new(300, None, None, None, None, None, None, None);
    let late = scene.roster.client().call("sample".into(), "forever".into(), b"[]".to_vec(), options);
    exception::<CallTimedOut>(late).expect("the call is too late");
    let floor = || gives(&scene, "sample", "memory", json!([]))[0].as_i64().expect("bytes");
    let before = floor();
    for number in 0..3_000 {
        gives(&scene, "sample", ["echo", "values", "later", "stream"][number % 4], json!(["x"]));
    }
    assert!(floor() - before < 2_000, "{} bytes more", floor() - before);
    let id = scene.has(1)[0].id.clone();
    scene.roster.kill();
    scene.roster.run();
    offers(&scene, &["sample"]);
    assert_eq!(scene.has(1)[0].id, id, "the process has kept its id");
}
