//! A writer killed at any moment leaves a whole revision.

use super::*;

/// Writes pairs that must always agree, until it is killed.
#[test]
#[ignore = "is run by another test, as a process of its own"]
fn a_writer_without_end() {
    let folder = PathBuf::from(std::env::var_os("ROSTER_TEST_FOLDER").expect("a folder"));
    let config = Config { state: PathBuf::new(), ..Config::default() };
    let feeds = feeds("cluster");
    let shared = Shared::open(&config, Some(&folder), &feeds).expect("the file").expect("a file");
    let store = Store::new(&store::Config::default(), feeds, Arc::default());
    let (mut writer, publisher) = (shared.writer, store.publisher(0));
    for round in 0.. {
        let at = |pair: char| format!("/{pair}/{}", round % 50);
        let text = format!("{round} {}", "x".repeat(round * 97 % 9_000));
        publisher.publish(vec![put(&at('a'), &text), put(&at('b'), &text)]);
        writer.make_ready(true, Instant::now()).expect("in order");
        writer.renew(&store).expect("written");
    }
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_whole_revision() {
    let fixture = SharedFileFixture::new();
    for round in 0..40 {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "store::shared::tests::killed::a_writer_without_end"])
            .env("ROSTER_TEST_FOLDER", fixture.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("a writer");
        // From the first commit on: before, there is no revision.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) && Contents::load(&fixture.file()).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(5_000 + round * 773));
        writer.kill().expect("killed");
        writer.wait().expect("ended");
        let contents = Contents::load(&fixture.file()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        for n in 0..50 {
            let of = |pair: char| contents.nodes.get(&path(&format!("/{pair}/{n}"))).map(|node| &node.data);
            assert_eq!(of('a'), of('b'), "round {round}");
        }
    }
}
