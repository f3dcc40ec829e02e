<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\InvalidRequest;

/** How long to wait for the sidecar. */
final class Timeouts
{
    /**
     * @param int $connectMs for a connection
     * @param int $readMs for the next bytes of an answer
     * @param int $totalMs for the answer, over all transports together; for each part of an answer in several parts
     * @param int $jobsMs how much longer for what concerns jobs: the sidecar waits 5 s for a Redis that does not answer, or 2 s
     *     and then for the disk of its buffer
     */
    public function __construct(
        public readonly int $connectMs = 100,
        public readonly int $readMs = 250,
        public readonly int $totalMs = 750,
        public readonly int $jobsMs = 6_000,
    ) {
        foreach (get_object_vars($this) as $name => $ms) {
            // What is only added may be nothing.
            if ($ms < ($name === 'jobsMs' ? 0 : 1)) {
                throw new InvalidRequest($name, "$ms ms are no time to wait");
            }
        }
    }
}
