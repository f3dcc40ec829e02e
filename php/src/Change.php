<?php

declare(strict_types=1);

namespace Roster;

/** One change reported by a watch. */
final class Change
{
    /**
     * @param string $path empty for a reset
     * @param ?Node $node as it is now; null for a deletion or a reset
     */
    public function __construct(
        public readonly ChangeKind $kind,
        public readonly string $path,
        public readonly ?Node $node,
        public readonly Freshness $freshness,
    ) {
    }
}
