//! What must hold for any node below the root of any format.

use std::sync::Arc;

use super::{Config, Role};
use crate::model::{Format, Node, NodePath};

/// The first byte selects a format, the first line is the path below its root, the rest the data.
pub fn nodes(bytes: &[u8]) {
    let Some((number, rest)) = bytes.split_first() else { return };
    let Some(format) = Format::ALL.get(usize::from(number % 32)) else { return };
    let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let (path, data) = rest.split_at(line);
    let Ok(path) = std::str::from_utf8(path) else { return };
    let Ok(path) = NodePath::parse(&format!("/root/{path}")) else { return };
    let node = Node { data: data.get(1..).unwrap_or_default().into(), ..Node::default() };
    let root = NodePath::root().child("root");
    let config = Config { root: root.clone(), format: *format, ..Config::default() };
    let Some(located) = config.locate(&path) else { return };
    let scope = located.scope(&path).expect("a scope lies above its nodes");
    assert!(scope.is_under(&root), "{path} has the scope {scope}");
    let service = located.service.as_str().into();
    match located.role {
        Role::Instance => {
            assert_eq!(config.instances_of(&scope), path.parent().expect("a parent"));
            let Ok(Some(registered)) = config.decode(&path, &service, &node, |_| Arc::default(), 0) else { return };
            registered.instance.check().expect("it is within its bounds");
            let first = registered.instance.endpoints.first().expect("it can be reached");
            assert!(first.port != 0 && !first.host.is_empty());
        }
        Role::Rule => {
            let begin = config.rules_of(&scope).expect("rules");
            assert!(path.as_str().starts_with(begin.as_str()), "{path} is no rule of {scope}");
            let Ok(rule) = config.rule(&path, &node) else { return };
            // It may concern anything.
            let sibling = config.instances_of(&scope).child("dubbo%3A%2F%2Fh%3A1%2Fi%3Fa%3Db");
            let _ = config.decode(&sibling, &service, &node, |_| [rule].into(), usize::MAX);
        }
        Role::Document => {
            let Ok(rules) = config.document(&path, &node) else { return };
            let provider =
                config.scope_of(&located.service).child("providers").child("dubbo%3A%2F%2Fh%3A1%2Fi%3Fa%3Db");
            let _ = config.documents(&provider).paths().count();
            let _ = config.decode(&provider, &service, &Node::default(), |_| rules.into(), usize::MAX);
        }
        Role::Interface => drop(config.applications(&service, &node)),
    }
}
