<?php

declare(strict_types=1);

namespace Roster;

/** One change reported by a watch of workers. */
final class WorkerChange
{
    /**
     * @param string $worker its name; empty for a reset
     * @param ?WorkerReport $report as it is now; null if it is gone, and for a reset
     */
    public function __construct(
        public readonly ChangeKind $kind,
        public readonly string $worker,
        public readonly ?WorkerReport $report,
    ) {
    }
}
