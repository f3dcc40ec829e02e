<?php

declare(strict_types=1);

namespace Roster;

/** Something that fills the sidecar's snapshot, such as a ZooKeeper ensemble. */
final class Source
{
    /**
     * @param string $state `connecting`, `syncing`, `live` or `down`
     * @param string $detail what it is waiting for or suffers from; empty when all is well
     * @param list<string> $supplies what it contributes: `nodes`, `instances`
     * @param list<string> $roots the paths whose nodes it supplies
     * @param ?int $ageMs null if it was never in sync
     */
    public function __construct(
        public readonly string $name,
        public readonly string $kind,
        public readonly string $state,
        public readonly string $detail,
        public readonly array $supplies,
        public readonly array $roots,
        public readonly ?int $ageMs,
        public readonly int $nodes,
        public readonly int $bytes,
        public readonly int $reconnects,
        public readonly int $skippedNodes,
        public readonly int $drift,
    ) {
    }
}
