/**
 * The service of the article that Roster replaces, unchanged: its PHP clients work as they are.
 *
 * The answer is the data of the node that `[zk_data] path` names, byte for byte: on the wire `string` and
 * `binary` are one type. (For Rust, whose strings are UTF-8, the code in gen/rs is generated with `binary`.)
 * Where the data is not to be had, the answer is a TApplicationException that says why.
 */
namespace php tutorial

service zkDataService {
  string zkData()
}
