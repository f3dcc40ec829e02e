//! The state directory: one sidecar has it, or none is used.

use super::*;

#[test]
fn two_sidecars_do_not_keep_one_state() {
    let fixture = SharedFileFixture::new();
    let claim = || fixture.config.clone().claim_state(&Metrics::default());
    let first = claim().expect("free").expect("it can be used");
    let told = claim().expect_err("it is held").to_string();
    let expected = format!(
        "another sidecar (process {}) keeps its state in {}",
        std::process::id(),
        fixture.config.state.display()
    );
    assert!(told.contains(&expected), "{told}");
    drop(first);
    assert!(claim().expect("free again").is_some());
}

#[test]
fn where_no_state_can_be_kept_none_is_and_no_start_fails() {
    let fixture = SharedFileFixture::new();
    for state in ["/proc/none/at-all", "/proc"] {
        let mut config = Config { state: state.into(), ..fixture.config.clone() };
        let metrics = Metrics::default();
        assert!(config.claim_state(&metrics).expect("nobody has it").is_none(), "{state}");
        let trouble = metrics.state_trouble.load_full().expect("it was configured");
        assert!(trouble.contains("cannot be used") && trouble.contains(state), "{trouble}");
        assert_eq!(config.copy(&fixture.file()), None);
    }
}

#[test]
fn the_directory_of_the_state_is_made_if_its_parent_is_there() {
    let mut fixture = SharedFileFixture::new();
    fs::remove_dir(&fixture.config.state).expect("an empty folder");
    assert!(fixture.config.claim_state(&Metrics::default()).expect("free").is_some() && fixture.config.state.is_dir());
    fixture.config.state = fixture.folder.path().join("not/there");
    assert!(fixture.config.claim_state(&Metrics::default()).expect("nobody has it").is_none());
    assert!(fixture.open().shared.copy.is_none() && !fixture.folder.path().join("not").exists());
}
