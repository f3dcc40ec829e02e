<?php

declare(strict_types=1);

namespace Roster;

/** What the sidecar is doing. */
final class Status
{
    /**
     * @param Freshness $freshness over all sources
     * @param list<Source> $sources
     * @param array<string, int> $counters all counters
     * @param array<string, int> $limits the limits in force
     * @param ?string $sharedFileError why the shared file is not written; null: it is, or there should be none
     * @param list<string> $portsTaken the ports that the sidecar cannot listen on, since other processes do, and why
     * @param ?string $stateError why nothing is kept in `[shared] state`; null: it is, or there should be nothing
     */
    public function __construct(
        public readonly string $version,
        public readonly int $uptimeMs,
        public readonly Freshness $freshness,
        public readonly array $sources,
        public readonly array $counters,
        public readonly array $limits,
        public readonly ?string $sharedFileError,
        public readonly array $portsTaken = [],
        public readonly ?string $stateError = null,
    ) {
    }
}
