<?php

declare(strict_types=1);

namespace Roster;

/** One place where a service is offered. */
final class Instance
{
    /**
     * @param string $master the id of the master,
     * @param string $address and where it connected from
     * @param int $outstanding how many calls to it are under way; 0 where the shared file tells
     */
    public function __construct(
        public readonly string $master,
        public readonly string $address,
        public readonly Service $service,
        public readonly int $outstanding,
        public readonly Freshness $freshness,
    ) {
    }
}
