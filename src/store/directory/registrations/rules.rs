//! Rules: nodes that change what others register.

use std::sync::Arc;

use super::{Faults, Nodes};
use crate::format::{Config, MAX_RULES, Role, Rule, Undecodable};
use crate::model::{Node, NodePath};
use crate::store::directory::Directory;

/// How many nodes are checked for rules of one scope.
const MAX_SEEN: usize = 4 * MAX_RULES;

/// The most bytes of paths and data of the rules of one scope: they are read again with each instance that changes.
const MAX_BYTES_OF_RULES: usize = 256 << 10;

/// The decodable rules of a scope with this path prefix; None: it is left out.
pub(super) fn rules_below<'a>(
    config: &'a Config,
    nodes: &'a Nodes,
    faults: &'a Faults,
    scope: &'a NodePath,
    begin: &'a NodePath,
) -> impl Iterator<Item = (&'a NodePath, Option<Rule>)> {
    let range = nodes.range(begin.clone()..).take_while(|(path, _)| path.as_str().starts_with(begin.as_str()));
    let is_rule = |path: &NodePath| {
        let located = config.locate(path).filter(|located| located.role == Role::Rule);
        located.is_some_and(|located| located.scope(path).as_ref() == Some(scope))
    };
    // What was refused when it came is not read again, and takes nothing from the others.
    let is_refused = |path: &NodePath| faults.get(path).is_some_and(|why| **why != Undecodable::RuleLeftOut);
    let (mut room, mut count) = (MAX_BYTES_OF_RULES, 0);
    let mut rule = move |path: &NodePath, node: &Node| {
        let left = room.checked_sub(config.rule_bytes(path, node)).filter(|_| count < MAX_RULES)?;
        let rule = config.rule(path, node).ok()?;
        (room, count) = (left, count + 1);
        Some(rule)
    };
    let rules = range.take(MAX_SEEN).filter(move |(path, _)| is_rule(path) && !is_refused(path));
    rules.map(move |(path, node)| (path, rule(path, node)))
}

/// The rules of one scope, with their nodes.
#[derive(Default)]
pub(in crate::store) struct RulesOfScope(Vec<(NodePath, Rule)>);

impl RulesOfScope {
    pub(in crate::store) fn read(config: &Config, nodes: &Nodes, directory: &Directory, scope: &NodePath) -> Self {
        let Some(begin) = config.rules_of(scope) else { return Self::default() };
        let rules = rules_below(config, nodes, &directory.registrations.undecodable, scope, &begin);
        Self(rules.filter_map(|(path, rule)| Some((path.clone(), rule?))).collect())
    }

    /// The paths of the rules that change what a node of the scope registers; documents in the order in which they do.
    pub(in crate::store) fn changing(&self, config: &Config, nodes: &Nodes, path: &NodePath) -> Vec<NodePath> {
        let located = config.locate(path).filter(|located| located.role == Role::Instance);
        let (Some(located), Some(node)) = (located, nodes.get(path)) else { return Vec::new() };
        let service: Arc<str> = located.service.into();
        let read = |rules: &[Rule]| {
            let read = config.decode(path, &service, node, |_| rules.into(), usize::MAX);
            read.map(|it| it.map(|it| it.instance))
        };
        let Ok(without) = read(&[]) else { return Vec::new() };
        let is_changing = |rule: &Rule| read(std::slice::from_ref(rule)).is_ok_and(|with| with != without);
        let changing = self.0.iter().filter(|(_, rule)| is_changing(rule)).map(|(path, _)| path.clone());
        let mut changing: Vec<_> = changing.collect();
        let mut rules: Vec<_> = self.0.iter().map(|(_, rule)| rule.clone()).collect();
        let mut before = read(&rules);
        for document in config.documents(path).paths() {
            let Some(Ok(more)) = nodes.get(&document).map(|node| config.document(&document, node)) else { continue };
            rules.extend(more);
            let after = read(&rules);
            if after != before {
                changing.push(document);
            }
            before = after;
        }
        changing
    }
}

/// Whether there may be a rule for a node in a scope.
pub(in crate::store) fn may_have_rules(config: &Config, nodes: &Nodes, scope: &NodePath, path: &NodePath) -> bool {
    let below = |begin: NodePath| nodes.range(begin.clone()..).next().map(|(path, _)| (path, begin));
    let first = config.rules_of(scope).and_then(below);
    first.is_some_and(|(path, begin)| path.as_str().starts_with(begin.as_str()))
        || config.documents(path).paths().any(|document| nodes.contains_key(&document))
}
