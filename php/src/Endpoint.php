<?php

declare(strict_types=1);

namespace Roster;

/** Where an instance is called by whoever wants something of it. */
final class Endpoint
{
    /**
     * @param string $name what it is for; empty: the service itself
     * @param string $protocol as its registration has it (`http`, `dubbo`); empty: it does not say
     * @param string $host a name or an address; one of IPv6 without brackets
     */
    public function __construct(
        public readonly string $name,
        public readonly string $protocol,
        public readonly string $host,
        public readonly int $port,
    ) {
    }
}
