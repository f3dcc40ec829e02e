//! Credentials: the identities of a session, one per line.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::model::counted;
use crate::secret::{self, Secret};

/// A scheme, and the proof of identity for it.
pub(super) type Identity = (String, Secret<String>);

/// The schemes of ZooKeeper itself. A server may have others.
const SCHEMES: [&str; 7] = ["digest", "ip", "x509", "sasl", "world", "auth", "super"];

/// The scheme of an identity that is proven by SASL: `sasl:USER:PASSWORD`.
pub(super) const SASL: &str = "sasl";

/// Why credentials are invalid. A line itself is a secret, and is never shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
    #[error("{0}: there is no identity in it; write digest:USER:PASSWORD")]
    Empty(String),
    #[error("{0}:{1}: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD")]
    NoScheme(String, usize),
    #[error("{0}:{1}: there is no password in it; write {2}:USER:PASSWORD")]
    NoPassword(String, usize, String),
}

/// The identities in a file, or in a variable; or all that is wrong with it.
pub(super) fn read(place: &Path) -> Result<Vec<Identity>, Vec<Flaw>> {
    let name = place.display().to_string();
    let text = match secret::read(place) {
        Ok(text) => text,
        Err(error) => return Err(vec![Flaw::Unreadable(name, error)]),
    };
    let (mut identities, mut flaws) = (Vec::new(), Vec::new());
    for (number, line) in lines(&text) {
        match line.split_once(':') {
            Some((scheme @ ("digest" | SASL), identity)) if !has_password(identity) => {
                flaws.push(Flaw::NoPassword(name.clone(), number, scheme.to_owned()));
            }
            Some((scheme, identity)) => identities.push((scheme.to_owned(), Secret(identity.to_owned()))),
            None => flaws.push(Flaw::NoScheme(name.clone(), number)),
        }
    }
    if identities.is_empty() && flaws.is_empty() {
        flaws.push(Flaw::Empty(name));
    }
    if flaws.is_empty() { Ok(identities) } else { Err(flaws) }
}

/// All that is wrong with credentials.
pub(crate) fn flaws(place: &Path) -> Vec<Flaw> {
    read(place).err().unwrap_or_default()
}

/// Possible mistakes: a server without this scheme refuses it.
pub(crate) fn doubts(place: &Path) -> Vec<String> {
    let text = secret::read(place).unwrap_or_default();
    let scheme = |(number, line)| Some((number, str::split_once(line, ':')?.0));
    let unknown = lines(&text).filter_map(scheme).filter(|(_, scheme)| !SCHEMES.contains(scheme));
    // Not the word itself, which may be a misplaced secret.
    let doubts = unknown.map(|(number, _)| {
        let place = place.display();
        format!("{place}:{number}: it begins with no scheme that ZooKeeper knows; write digest:USER:PASSWORD")
    });
    doubts.collect()
}

/// A message that they are refused, and what may be wrong with them.
pub(crate) fn refused(place: &Path, why: impl Display) -> String {
    first(&doubts(place)).map_or_else(|| why.to_string(), |doubt| format!("{why}; it may be this: {doubt}"))
}

/// The first of some lines' flaws, and the number of the others: a state has one line for all.
pub(super) fn first(flaws: &[impl Display]) -> Option<String> {
    match flaws {
        [] => None,
        [one] => Some(one.to_string()),
        [first, rest @ ..] => {
            let more = counted(rest.len() as u64, "more line");
            Some(format!("{first} (and {more}: `roster config check` lists all)"))
        }
    }
}

fn has_password(identity: &str) -> bool {
    identity.split_once(':').is_some_and(|(user, password)| !user.is_empty() && !password.is_empty())
}

/// The lines that are neither empty nor comments, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(str::trim).enumerate().map(|(before, line)| (before + 1, line));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_with_credentials_is_told_by_lines_and_never_the_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("z.cred");
        let told = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            let flaws = flaws(&path).iter().map(Flaw::to_string).chain(doubts(&path)).collect::<Vec<_>>();
            flaws.join("\n").replace(&path.display().to_string(), "z.cred")
        };
        assert_eq!(told(b"# ours\n digest:app:secret \r\n\nsasl:x:y\n"), "");
        let identities = read(&path).expect("identities");
        assert_eq!(
            identities,
            [("digest", "app:secret"), ("sasl", "x:y")].map(|(of, by)| (of.into(), Secret(by.into())))
        );
        assert_eq!(
            told(b"digest\n\nhush\nu:p\nsasl:x\n"),
            "\
z.cred:1: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD
z.cred:3: a line is SCHEME:IDENTITY; write digest:USER:PASSWORD
z.cred:5: there is no password in it; write sasl:USER:PASSWORD
z.cred:4: it begins with no scheme that ZooKeeper knows; write digest:USER:PASSWORD"
        );
        for line in ["digest:app\n", "digest:app:\n", "digest::secret\n"] {
            assert_eq!(told(line.as_bytes()), "z.cred:1: there is no password in it; write digest:USER:PASSWORD");
        }
        assert_eq!(refused(&path, "refused"), "refused");
        std::fs::write(&path, "joe:secret\n").expect("written");
        let why = refused(&path, "refused");
        assert!(
            why.starts_with("refused; it may be this: ") && why.contains(":1: it begins with no scheme that"),
            "{why}"
        );
        std::fs::write(&path, "joe:a\njim:b\njill:c\n").expect("written");
        let why = refused(&path, "refused");
        let more = "write digest:USER:PASSWORD (and 2 more lines: `roster config check` lists all)";
        assert!(why.contains("z.cred:1: ") && why.ends_with(more) && !why.contains("z.cred:2: "), "{why}");
        assert_eq!(told(b"# none\n"), "z.cred: there is no identity in it; write digest:USER:PASSWORD");
        assert_eq!(told(b"digest:a:\xff"), "cannot read z.cred: stream did not contain valid UTF-8");
    }
}
