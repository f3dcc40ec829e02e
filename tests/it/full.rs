//! A file system in memory that is full: whoever touches a mapped page for which there is no room is killed by the kernel,
//! be it the sidecar or a reader of its shared file.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Roster, SOON, binary_path, ensure, eventually, is_skipped_without_root};

/// A sidecar whose shared file is to lie on a file system of its own of 256 KiB, of which so much is free.
fn start_with(free_kib: usize) -> (Roster, PathBuf) {
    let mut roster = Roster::prepare_file("roster.sock", "\"/a\" = \"one\"\n");
    let small = roster.folder().join("small");
    std::fs::create_dir(&small).expect("a folder");
    roster.configure("[register]", &format!("[shared]\npath = {:?}\n[register]", small.join("shared.mdb")));
    let script = format!(
        "mount -t tmpfs -o size=256k,mode=755 tmpfs \"$0\" && head -c {}k /dev/zero > \"$0/rest\" && exec \"$@\"",
        256 - free_kib
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(&small).arg(binary_path());
    let mut serve = roster.serve(command);
    roster.run_as(&mut serve);
    roster.becomes("live");
    // As its namespace has it.
    let seen = format!("/proc/{}/root{}", roster.process().id(), small.display());
    (roster, seen.into())
}

#[test]
fn a_sidecar_lives_where_its_shared_file_has_no_room_and_writes_it_when_there_is() {
    if is_skipped_without_root() {
        return;
    }
    for free in [0, 4, 8, 12, 16, 24, 72, 80, 140, 150, 160] {
        let (roster, small) = start_with(free);
        assert_eq!(roster.data("/a"), b"one");
        if free < 140 {
            eventually("it says why it is not written", SOON, || {
                let trouble = roster.status().shared_trouble.unwrap_or_default();
                ensure(trouble.contains("No space left on device"), format!("{free} KiB: {trouble}"))
            });
        }
        std::fs::remove_file(small.join("rest")).expect("a file");
        eventually("it is written", SOON, || {
            ensure(roster.status().shared_trouble.is_none(), roster.log())?;
            let read = std::fs::read(small.join("shared.mdb")).map_err(|error| error.to_string())?;
            ensure(read.windows(3).any(|data| data == b"one"), "the node is not in it")
        });
    }
}

#[test]
fn readers_live_where_the_file_system_of_the_shared_file_is_full() {
    if is_skipped_without_root() {
        return;
    }
    let (roster, small) = start_with(256);
    let file = small.join("shared.mdb");
    eventually("the file is there", SOON, || file.metadata().map(drop));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a mode");
    let fill = format!("head -c 256k /dev/zero > {:?}", small.join("rest"));
    assert!(!Command::new("sh").args(["-c", &fill]).output().expect("a shell").status.success(), "it is not full");
    // Each has a place of its own in the table of readers, of which 64 lie on a page.
    let code = format!("$db = dba_open({:?}, 'r', 'lmdb'); echo dba_fetch('node/a', $db); sleep(600);", file);
    let mut readers: Vec<_> = (0..70)
        .map(|_| Command::new("php").args(["-r", &code]).stdout(std::process::Stdio::piped()).spawn().expect("PHP"))
        .collect();
    for reader in &mut readers {
        let mut read = [0; 3];
        std::io::Read::read_exact(reader.stdout.as_mut().expect("a pipe"), &mut read).expect("what it reads");
        assert_eq!(&read, b"one");
    }
    for mut reader in readers {
        reader.kill().expect("it runs");
        reader.wait().expect("it ends");
    }
    assert_eq!(roster.data("/a"), b"one");
}
