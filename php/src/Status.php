<?php

declare(strict_types=1);

namespace Roster;

/** What the sidecar is doing. */
final class Status
{
    /**
     * @param Freshness $freshness over all sources
     * @param list<Source> $sources
     * @param array<string, int> $counters everything that is counted
     * @param array<string, int> $limits the bounds in force
     * @param ?string $sharedFileError why the shared file is not written; null: it is, or there is to be none
     * @param list<string> $portsTaken at which of its ports the sidecar does not listen, since other processes do, and why
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
    ) {
    }
}
