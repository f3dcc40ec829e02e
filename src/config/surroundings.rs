//! What a configuration needs of the machine it is checked on, beside being right in itself.

use std::path::Path;

use nix::unistd::Group;

use super::Config;
use super::draft::Draft;
use super::mistake::{Key, Mistake};
use crate::net::tls::{TlsError, authorities_of};
use crate::register;

/// All that the configuration names and the machine does not have. What cannot be looked at may be there.
pub(super) fn check(config: &Config, draft: &Draft) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let group = &config.thrift.group;
    if !group.is_empty() && matches!(Group::from_name(group), Ok(None)) {
        mistakes.push(draft.mistake("thrift.group".into(), format!("there is no group {group:?} on this machine")));
    }
    for (number, ensemble) in config.zookeeper.iter().enumerate() {
        if let Some(path) = ensemble.credentials.as_ref().filter(|path| is_set(path))
            && matches!(path.try_exists(), Ok(false))
        {
            let key = draft.element(&"zookeeper".into(), number).child("credentials");
            mistakes.push(draft.mistake(key, format!("there is no file {}", path.display())));
        }
    }
    if let Some(Err(error)) =
        config.register.tls.as_ref().filter(|tls| is_set(&tls.certificate) && is_set(&tls.key)).map(register::Tls::read)
    {
        let part = if matches!(error, TlsError::Key { .. }) { "key" } else { "certificate" };
        mistakes.push(draft.mistake(Key::new(["register", "tls", part]), error.to_string()));
    }
    for (number, upstream) in config.upstream.iter().enumerate() {
        if let Some(Err(error)) = upstream.ca.as_deref().filter(|path| is_set(path)).map(authorities_of) {
            mistakes.push(draft.mistake(draft.element(&"upstream".into(), number).child("ca"), error.to_string()));
        }
    }
    mistakes
}

/// Whether a path is more than the mark that there should be one.
fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}
