//! One instance of a service, by the command line.

use rmpv::Value;

use crate::harness::master::{Scripted, map};
use crate::harness::{SOON, ensure, eventually};
use crate::register::{Scene, TOKEN};

#[test]
fn one_is_resolved_and_the_distribution_follows_the_weights() {
    let scene = Scene::new();
    let join = |zone: &str, weight: i64| {
        let metadata: Value = map([("zone", zone.into()), ("weight", weight.into())]);
        Scripted::join(scene.port, TOKEN, &[("mail@1.2.0", metadata)])
    };
    let masters = [join("a", 300), join("b", 100), join("b", 0)];
    scene.has(3);
    let of_zone = |zone: &str| scene.roster.cli(["resolve", "mail", "--zone", zone]).text();
    let [a, b] = ["a", "b"].map(of_zone);
    assert!(a != b && a.ends_with('\n'), "{a} {b}");
    let listed = |filter: &[&str]| {
        let ended = scene.roster.cli(["services", "mail", "-o", "json"].iter().chain(filter));
        assert_eq!(ended.code, Some(0), "{filter:?}: {ended:?}");
        ended.json()["instances"].as_array().map_or(0, Vec::len)
    };
    let of_b = ["--zone", "b", "--version", "^1", "--group", "", "--metadata", "zone=b"];
    assert_eq!([listed(&of_b), listed(&["--zone", "b", "--callable"])], [2, 1], "one has no weight");
    assert_eq!([listed(&["--version", "^2"]), listed(&["--group", "blue"])], [0, 0]);
    let none = scene.roster.cli(["services", "mail", "--zone", "c"]);
    assert!(none.wrong.contains("no instance of `mail` is as asked for"), "{none:?}");
    assert_eq!(scene.roster.cli(["services", "--zone", "b"]).code, Some(2), "of which service?");
    let chosen = scene.roster.cli(["resolve", "mail", "-n", "400", "-o", "json"]).json();
    let chosen = chosen["chosen"].as_array().expect("a list");
    let times = |id: &str| {
        let of = chosen.iter().find(|it| it["instance"]["masterId"] == id.trim());
        of.and_then(|it| it["times"].as_u64()).expect("it was chosen")
    };
    assert_eq!((chosen.len(), times(&a) + times(&b)), (2, 400));
    // Ten deviations.
    assert!((214..387).contains(&times(&a)), "{chosen:?}");
    let keyed = || scene.roster.cli(["resolve", "mail", "--key", "user:42"]).text();
    assert_eq!(keyed(), keyed());
    let other = scene.roster.cli(["resolve", "mail", "--exclude", a.trim()]);
    assert_eq!((other.wrong.as_str(), other.clone().text()), ("", b.clone()), "the third has no weight");
    let other = scene.roster.cli(["resolve", "mail", "--exclude", "127.0.0.1", "--exclude", a.trim()]);
    let told = "roster: no instance of `mail` is 127.0.0.1: --exclude takes host:port, or the id of a master\n";
    assert_eq!((other.wrong.as_str(), other.clone().text()), (told, b.clone()));
    let table = scene.roster.cli(["resolve", "mail", "-n", "50", "--key", "user:", "--prefer-zone", "a"]).text();
    assert!(table.starts_with("INSTANCE") && table.contains("100.0 %"), "{table}");
    for (arguments, told) in [
        (["resolve", "nothing", "--zone", "a"], "the service `nothing` is unknown"),
        (["resolve", "mail", "--version", "^2"], "has a version that meets ^2"),
        (["resolve", "mail", "--metadata", "role=replica"], "has role=replica"),
    ] {
        let ended = scene.roster.cli(arguments);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.wrong.contains(told), "{ended:?}");
    }
    let none = scene.roster.cli(["resolve", "mail", "--exclude", a.trim(), "--exclude", b.trim()]);
    assert!(none.code == Some(1) && none.wrong.contains("that will do is excluded by the request"), "{none:?}");
    assert_eq!(scene.roster.cli(["resolve", "mail", "--version", "the newest"]).code, Some(2));
    drop(masters);
    eventually("nobody is left", SOON, || {
        let ended = scene.roster.cli(["resolve", "mail"]);
        ensure(ended.code == Some(1) && ended.wrong.contains("has no instances any more"), format!("{ended:?}"))
    });
}
