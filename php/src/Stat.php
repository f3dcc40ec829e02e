<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\TransportFailed;

/** A coordination node's stat, as in ZooKeeper; unknown fields are 0. */
final class Stat
{
    /**
     * @param int $version how many times the data was set since the node was created
     * @param int $czxid the transaction that created the node,
     * @param int $mzxid that last set its data,
     * @param int $pzxid and that last created or deleted a child
     * @param int $ctime when the node was created, ms since 1970
     * @param int $mtime when its data was last set, ms since 1970
     * @param int $ephemeralOwner the session that owns an ephemeral node; 0 for any other
     * @param int $numChildren how many children ZooKeeper counts, including those that are not mirrored
     */
    public function __construct(
        public readonly int $version,
        public readonly int $czxid,
        public readonly int $mzxid,
        public readonly int $pzxid,
        public readonly int $ctime,
        public readonly int $mtime,
        public readonly int $ephemeralOwner,
        public readonly int $numChildren,
    ) {
    }

    /**
     * @internal
     * @param array<string, int> $fields named as above
     */
    public static function of(array $fields): self
    {
        return new self(
            $fields['version'],
            $fields['czxid'],
            $fields['mzxid'],
            $fields['pzxid'],
            $fields['ctime'],
            $fields['mtime'],
            $fields['ephemeralOwner'],
            $fields['numChildren'],
        );
    }

    /** @internal */
    public static function parse(string $json): self
    {
        $fields = json_decode($json, true);
        return is_array($fields)
            ? self::of(array_filter($fields, is_int(...)) + array_fill_keys(array_keys(get_class_vars(self::class)), 0))
            : throw new TransportFailed('a stat is damaged');
    }
}
