<?php

declare(strict_types=1);

namespace Roster;

/**
 * One place that offers a service: a master, which is called through its connection (`Client::call`); or endpoints,
 * which you call directly.
 */
final class Instance
{
    /**
     * @param string $serviceName without a version
     * @param string $version 0.0.0 if not given; `0.0.0+1.0.0.daily` if what a node gives is none by semver
     * @param string $group empty if not given
     * @param string $zone empty if not given
     * @param int $weight 100 if not given
     * @param array<string, mixed> $metadata
     * @param list<Endpoint> $endpoints empty for a master
     * @param ?string $masterId null: call one of the endpoints
     * @param int $outstanding how many calls to the master are under way; 0 if read from the shared file
     * @param list<Provenance> $provenance where it is known from
     * @param ?Withholding $ejected its callers reported failures: it is only chosen if no other can be called
     * @param ?Withholding $drained an administrator keeps calls away from it: it is not chosen
     * @param ?Held $held set if it is no longer registered, but still served; null: it is registered
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

    /** The `host:port` of the service's own endpoint, with IPv6 in brackets; or the id of the master. */
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
