//! The methods of the interface.

/// Their names, in its order.
pub(super) const METHODS: [&str; 24] = [
    "get",
    "getMany",
    "children",
    "subtree",
    "watch",
    "status",
    "masters",
    "master",
    "services",
    "instances",
    "watchMasters",
    "watchMessages",
    "call",
    "callAll",
    "callMany",
    "callInOrder",
    "startCall",
    "nextValues",
    "openCall",
    "sendValues",
    "broadcast",
    "addRegisters",
    "removeRegisters",
    "stats",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_are_those_of_the_interface() {
        let (_, service) = include_str!("../../idl/roster.thrift").split_once("service Roster {").expect("a service");
        let names = service.lines().filter_map(|line| line.split_once("(1: ")?.0.rsplit(' ').next());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        assert_eq!(names, METHODS);
    }
}
