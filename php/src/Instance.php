<?php

declare(strict_types=1);

namespace Roster;

/**
 * One place where a service can be had: a master, which is called through its connection (`Client::call`); or endpoints,
 * which you call yourself.
 */
final class Instance
{
    /**
     * @param string $serviceName without a version
     * @param string $version 0.0.0 where none is given
     * @param string $group empty: none is given
     * @param string $zone empty: none is given
     * @param int $weight 100 where none is given
     * @param array<string, mixed> $metadata
     * @param list<Endpoint> $endpoints none of a master
     * @param ?string $masterId null: one of the endpoints is called
     * @param int $outstanding how many calls to the master are under way; 0 where the shared file tells
     * @param list<Provenance> $provenance by what it is known
     * @param ?Withholding $ejected its callers reported failures: it is chosen only where no other can be called
     * @param ?Withholding $drained an administrator wants it to have no calls: it is not chosen
     * @param ?Held $held that it is registered no more, and served all the same; null: it is registered
     */
    public function __construct(
        public readonly string $serviceName,
        public readonly string $version,
        public readonly string $group,
        public readonly string $zone,
        public readonly int $weight,
        public readonly array $metadata,
        public readonly InstanceState $state,
        public readonly array $endpoints,
        public readonly ?string $masterId,
        public readonly int $outstanding,
        public readonly array $provenance,
        public readonly Freshness $freshness,
        public readonly ?Withholding $ejected = null,
        public readonly ?Withholding $drained = null,
        public readonly ?Held $held = null,
    ) {
    }

    /** `host:port` of the endpoint of the service itself, an address of IPv6 in brackets; or the id of the master. */
    public function address(): string
    {
        $own = array_filter($this->endpoints, static fn (Endpoint $endpoint) => $endpoint->name === '');
        $endpoint = [...$own, ...$this->endpoints][0] ?? null;
        return match (true) {
            $this->masterId !== null || $endpoint === null => (string) $this->masterId,
            str_contains($endpoint->host, ':') => "[$endpoint->host]:$endpoint->port",
            default => "$endpoint->host:$endpoint->port",
        };
    }
}
