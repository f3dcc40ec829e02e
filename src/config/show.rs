//! The effective configuration as TOML, which loads to the same again.

use bytesize::{ByteSize, GIB, KIB, MIB};

use super::Config;

impl Config {
    /// The whole configuration with its defaults.
    pub fn to_toml(&self) -> String {
        let mut table = toml::Table::try_from(self).expect("a checked configuration is UTF-8 and fits TOML's numbers");
        self.write_sizes(&mut table);
        toml::to_string(&table).expect("a table is TOML")
    }

    /// `ByteSize` rounds when it is written, 1500 bytes as "1.5 KiB".
    fn write_sizes(&self, table: &mut toml::Table) {
        let thrift = &self.thrift;
        for (name, size) in [
            ("max_request", thrift.max_request),
            ("max_call", thrift.max_call),
            ("max_reply", thrift.max_reply),
            ("max_memory", thrift.max_memory),
            ("max_string", thrift.max_string),
        ] {
            table["thrift"][name] = exact(size).into();
        }
        let register = &self.register;
        for (name, size) in [
            ("max_message", register.max_message),
            ("max_queue", register.max_queue),
            ("max_metadata", register.max_metadata),
        ] {
            table["register"][name] = exact(size).into();
        }
        for (number, upstream) in self.upstream.iter().enumerate() {
            for (name, size) in [("max_message", upstream.max_message), ("max_metadata", upstream.max_metadata)] {
                table["upstream"][number][name] = exact(size).into();
            }
        }
        for (number, worker) in self.worker.iter().enumerate() {
            table["worker"][number]["max_log_size"] = exact(worker.max_log_size).into();
            for (name, size) in [("max_memory", worker.max_memory), ("kill_memory", worker.kill_memory)] {
                if let Some(size) = size {
                    table["worker"][number][name] = exact(size).into();
                }
            }
        }
        for (name, size) in [("max_size", self.shared.max_size), ("max_pinned", self.shared.max_pinned)] {
            table["shared"][name] = exact(size).into();
        }
        table["store"]["max_instance_bytes"] = exact(self.store.max_instance_bytes).into();
        table["history"]["max_size"] = exact(self.history.max_size).into();
        for (name, size) in [("max_bytes", self.queue.max_bytes), ("max_job_bytes", self.queue.max_job_bytes)] {
            table["queue"][name] = exact(size).into();
        }
        for (number, ensemble) in self.zookeeper.iter().enumerate() {
            let sizes = [
                ("max_bytes", ensemble.max_bytes),
                ("max_node_bytes", ensemble.max_node_bytes),
                ("max_in_flight", ensemble.max_in_flight),
            ];
            for (name, size) in sizes {
                table["zookeeper"][number][name] = exact(size).into();
            }
        }
    }
}

fn exact(size: ByteSize) -> String {
    let units = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];
    let (name, unit) =
        units.into_iter().find(|(_, unit)| size.0 > 0 && size.0.is_multiple_of(*unit)).unwrap_or(("B", 1));
    format!("{}{name}", size.0 / unit)
}
