/**
 * The service of an article, unchanged, whose PHP clients work as they are: there, a Node.js child watches ZooKeeper for it.
 *
 * The answer is the data of the node that `[zk_data] path` names, byte for byte: on the wire `string` and
 * `binary` are one type. (For Rust, whose strings are UTF-8, the code in crates/client/gen is generated with `binary`.)
 * Where the data is not to be had, the answer is a TApplicationException that says why.
 */
namespace php tutorial

service zkDataService {
  string zkData()
}
