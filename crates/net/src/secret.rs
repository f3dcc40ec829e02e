//! Secrets: they must not be in a configuration itself, but in a file that it names, or in an environment variable.
//! Also opens any such file.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// The prefix of an environment variable: `env:REGISTER_TOKENS`.
const VARIABLE: &str = "env:";

/// A secret, or a proof of possessing one. It never appears in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T>(pub T);

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The content of the file or the variable.
pub fn read(place: &Path) -> io::Result<String> {
    match variable(place) {
        Some(name) => env::var(name).map_err(|error| match error {
            env::VarError::NotPresent => {
                io::Error::new(io::ErrorKind::NotFound, format!("the variable {name} is not set"))
            }
            env::VarError::NotUnicode(_) => io::Error::other(format!("the variable {name} is not UTF-8")),
        }),
        None => io::read_to_string(open(place)?),
    }
}

/// The content of a file that a setting names.
pub fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file that a setting names. It may be a pipe without a writer, which is not waited for.
pub fn open(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    match file.metadata()? {
        found if found.is_file() => Ok(file),
        found if found.is_dir() => Err(io::Error::other("it is a folder: name a file in it")),
        _ => Err(io::Error::other("it is no regular file, but a pipe or a device: name a file")),
    }
}

/// The name of the variable, if it is one.
pub fn variable(place: &Path) -> Option<&str> {
    place.to_str()?.strip_prefix(VARIABLE)
}

/// The non-empty lines of a text, without a leading byte-order mark, which some editors add.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|line| !line.is_empty())
}

/// An invalid line in a token file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "line {0} is no token, since it has white space in it or begins with `<?php`; if another file was written over this one, \
     put the tokens back"
)]
pub struct NoToken(usize);

/// The tokens in a text: its lines, except those that begin with `#`. Lines of other kinds of files must not become
/// tokens.
pub fn tokens(text: &str) -> Result<Vec<&str>, NoToken> {
    let numbered = text.trim_start_matches('\u{feff}').lines().map(str::trim).zip(1..);
    let tokens = numbered.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let is_token = |line: &str| !line.starts_with("<?php") && !line.contains(char::is_whitespace);
    tokens.map(|(line, number)| if is_token(line) { Ok(line) } else { Err(NoToken(number)) }).collect()
}

/// Warns if a secret is not secret.
pub fn warn_if_open(key: &str, place: &Path) {
    if is_open(place) {
        tracing::warn!(key, path = %place.display(), "a secret that every user of this machine can read: chmod o= it");
    }
}

/// Whether everybody on this machine may read it.
fn is_open(place: &Path) -> bool {
    variable(place).is_none() && std::fs::metadata(place).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn a_file_is_open_when_others_than_its_owner_and_group_may_read_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
            set_permissions(file.path(), Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(is_open(file.path()), open, "{mode:o}");
        }
        assert!(!is_open(&file.path().join("nothing")));
    }

    #[test]
    fn neither_a_mark_nor_a_comment_nor_the_end_of_a_line_is_part_of_a_token() {
        let text = "\u{feff}one\r\n# an old one:\r\n#two\r\n\r\n  three \r\n";
        assert_eq!(tokens(text), Ok(vec!["one", "three"]));
        assert_eq!(tokens("\u{feff}# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn the_lines_of_another_file_are_no_tokens() {
        let exported = "<?php\n\n// Written by `roster export`.\nreturn [\n];\n";
        assert_eq!(tokens(exported), Err(NoToken(1)));
        for line in ["one two", "one\ttwo", "one\u{a0}two", "<?php"] {
            assert_eq!(tokens(&format!("one\n# a comment\n\n{line}\n")), Err(NoToken(4)), "{line:?}");
        }
    }

    #[test]
    fn neither_a_pipe_nor_a_folder_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        for (place, why) in [(&*pipe, "a pipe or a device"), (folder.path(), "a folder")] {
            let refusals = [read(place).err(), bytes(place).err(), open(place).err()];
            assert!(refusals.iter().flatten().filter(|it| it.to_string().contains(why)).count() == 3, "{refusals:?}");
        }
    }

    #[test]
    fn a_secret_is_in_a_file_or_in_a_variable() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "hush").expect("written");
        assert_eq!(read(file.path()).expect("a file"), "hush");
        // Cargo sets it for its tests.
        assert_eq!(read(Path::new("env:CARGO_PKG_NAME")).expect("a variable"), "roster-net");
        assert_eq!(read(Path::new("env:NOT_SET")).expect_err("none").to_string(), "the variable NOT_SET is not set");
    }
}
