<?php

declare(strict_types=1);

namespace Roster;

/**
 * One instance of a service, chosen to be called: at a host and a port; or a master, through its connection
 * (`Client::callOn` with its id).
 */
final class Resolved
{
    /**
     * @param ?string $host a name or an address; IPv6 without brackets; null: it is a master
     * @param string $protocol from its registration (`http`, `dubbo`); empty if not given
     * @param ?string $masterId null: it is called at its host
     * @param bool $isProtected whether some of the service's instances are held, since too many vanished at once: this
     *     may be one that is gone
     * @param string $serviceName its service
     */
    public function __construct(
        public readonly ?string $host,
        public readonly ?int $port,
        public readonly string $protocol,
        public readonly ?string $masterId,
        public readonly Freshness $freshness,
        public readonly bool $isProtected = false,
        public readonly string $serviceName = '',
    ) {
    }

    /** The `host:port`, with IPv6 in brackets; or the id of the master. */
    public function address(): string
    {
        return match (true) {
            $this->host === null => (string) $this->masterId,
            str_contains($this->host, ':') => "[$this->host]:$this->port",
            default => "$this->host:$this->port",
        };
    }
}
