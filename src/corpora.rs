//! The corpora of the fuzz targets, replayed.

use std::fs;
use std::path::Path;

use crate::{config, format, store, thrift, tunnel, zookeeper};

fn replay(corpus: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus);
    let files: Vec<_> = fs::read_dir(folder).expect("a corpus").map(|file| file.expect("a file").path()).collect();
    assert!(!files.is_empty());
    for file in files {
        check(&fs::read(file).expect("a file"));
    }
}

#[test]
fn what_a_master_may_send_holds() {
    replay("frames", tunnel::fuzz::frames);
}

#[test]
fn what_registers_and_those_who_follow_them_may_send_holds() {
    replay("upstream", tunnel::fuzz::upstream);
}

#[test]
fn what_php_may_be_given_holds() {
    replay("php_values", tunnel::fuzz::php_values);
}

#[test]
fn what_a_client_may_send_holds() {
    replay("requests", thrift::fuzz::requests);
}

#[test]
fn what_may_lie_in_the_place_of_the_shared_file_holds() {
    replay("shared_files", store::shared::fuzz::files);
}

#[test]
fn what_may_be_written_as_a_configuration_holds() {
    replay("configurations", config::fuzz::texts);
}

#[test]
fn what_servers_of_zookeeper_may_send_holds() {
    replay("replies", zookeeper::fuzz::replies);
}

#[test]
fn what_may_be_registered_in_any_format_holds() {
    replay("nodes", format::fuzz::nodes);
}
