<?php

declare(strict_types=1);

namespace Roster;

/** Where clients call an instance directly. */
final class Endpoint
{
    /**
     * @param string $name its purpose; empty: the service itself
     * @param string $protocol from its registration (`http`, `dubbo`); empty if not given
     * @param string $host a name or an address; IPv6 without brackets
     */
    public function __construct(
        public readonly string $name,
        public readonly string $protocol,
        public readonly string $host,
        public readonly int $port,
    ) {
    }
}
