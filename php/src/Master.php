<?php

declare(strict_types=1);

namespace Roster;

/** A long-running process that offers services. */
final class Master
{
    /**
     * @param string $peerAddress where it connected from; not an address at which it could be called
     * @param int $connectedAt ms since 1970
     * @param list<Service> $services
     * @param int $routes how many routes the sidecar has to it
     * @param int $outstanding how many calls to it are under way; 0 if read from the shared file
     */
    public function __construct(
        public readonly string $id,
        public readonly string $peerAddress,
        public readonly int $connectedAt,
        public readonly array $services,
        public readonly int $routes,
        public readonly int $outstanding,
        public readonly Freshness $freshness,
    ) {
    }
}
