<?php

declare(strict_types=1);

namespace Roster;

/** What a sidecar knows about one of its workers. Times are in ms since 1970. */
final class WorkerReport
{
    /**
     * @param string $name its group and number, such as `web/1`
     * @param string $state STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED or FATAL
     * @param int $sinceMs when it came into this state
     * @param int $restarts how many processes it has had after the first
     * @param string $why why the previous process is gone, or there is none; empty: nothing happened
     * @param ?int $pid null: it has no process
     * @param ?int $memoryBytes of its process; null: not requested, or unknown
     * @param ?int $processorMs the CPU time of its process; likewise
     * @param ?int $calls how many are under way; null: it has not connected
     * @param ?string $doing the one that has been under way the longest, `service.method`
     * @param ?int $doingSinceMs since when
     */
    public function __construct(
        public readonly string $name,
        public readonly string $group,
        public readonly int $number,
        public readonly string $state,
        public readonly int $sinceMs,
        public readonly int $restarts,
        public readonly string $why,
        public readonly ?int $pid,
        public readonly ?int $memoryBytes,
        public readonly ?int $processorMs,
        public readonly ?int $calls,
        public readonly ?string $doing,
        public readonly ?int $doingSinceMs,
    ) {
    }
}
