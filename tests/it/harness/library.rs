//! Libraries that stand between a process under test and the C library.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles one of the fixtures into a folder, for `LD_PRELOAD`.
pub(super) fn library(fixture: &str, folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture).with_extension("c");
    let library = folder.join(fixture).with_extension("so");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(compiled.expect("a C compiler").success(), "it compiles {}", source.display());
    library
}

/// Has a command use this library, beside others.
pub(super) fn preload(command: &mut Command, library: &Path) {
    const VARIABLE: &str = "LD_PRELOAD";
    let before = command.get_envs().find(|(name, _)| *name == VARIABLE).and_then(|(_, value)| value);
    let mut all = before.map(|before| [before, OsStr::new(":")].into_iter().collect::<OsString>()).unwrap_or_default();
    all.push(library);
    command.env(VARIABLE, all);
}
