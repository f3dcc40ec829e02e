<?php

declare(strict_types=1);

namespace Roster;

/** One change reported by a watch of masters. */
final class MasterChange
{
    /**
     * @param string $id of the master; empty for a reset
     * @param ?Master $master as it is now; null if it is gone, and for a reset
     */
    public function __construct(
        public readonly ChangeKind $kind,
        public readonly string $id,
        public readonly ?Master $master,
        public readonly Freshness $freshness,
    ) {
    }
}
