<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Endpoint;
use Roster\Exception\WayFailed;
use Roster\Freshness;
use Roster\Held;
use Roster\Instance;
use Roster\InstanceState;
use Roster\Master;
use Roster\Probe;
use Roster\Provenance;
use Roster\Resolved;
use Roster\Service;
use Roster\Withholding;

/**
 * Makes this package's values of what the shared file tells of masters.
 *
 * @internal
 */
final class Told
{
    public static function instance(array $told, Freshness $freshness): Instance
    {
        return new Instance(
            $told['serviceName'],
            $told['version'],
            $told['group'] ?? '',
            $told['zone'] ?? '',
            $told['weight'] ?? 100,
            $told['metadata'] ?? [],
            InstanceState::tryFrom($told['state']) ?? InstanceState::Unknown,
            array_map(self::endpoint(...), $told['endpoints'] ?? []),
            $told['masterId'] ?? null,
            $told['outstanding'] ?? 0,
            array_map(self::provenance(...), $told['provenance'] ?? []),
            $freshness,
            self::withholding($told['ejected'] ?? null),
            self::withholding($told['drained'] ?? null),
            isset($told['held']) ? self::held($told['held']) : null,
        );
    }

    /** Where it is called that is told of: at the endpoint of the service itself. */
    public static function resolved(array $told, Freshness $freshness, bool $isProtected): Resolved
    {
        ['host' => $host, 'port' => $port] = $endpoint = self::own($told);
        return new Resolved($host, $port, $endpoint['protocol'] ?? '', null, $freshness, $isProtected);
    }

    /** The order of equal ones: that of the smaller address comes first, then as their ids in the sidecar. */
    public static function compare(array $one, array $other): int
    {
        return strcmp(self::address(self::own($one)), self::address(self::own($other)))
            ?: strcmp(self::id($one), self::id($other));
    }

    private static function id(array $told): string
    {
        $endpoint = $told['endpoints'][0];
        $protocol = $endpoint['protocol'] ?? '';
        [$group, $version] = [$told['group'] ?? '', $told['metadata']['version'] ?? ''];
        $variant = is_string($version) && "$group$version" !== '' ? "?group=$group&version=$version" : '';
        return ($protocol === '' ? '' : "$protocol://") . self::address($endpoint) . $variant;
    }

    private static function address(array $endpoint): string
    {
        ['host' => $host, 'port' => $port] = $endpoint;
        return str_contains($host, ':') ? "[$host]:$port" : "$host:$port";
    }

    /** The endpoint of the service itself. */
    private static function own(array $told): array
    {
        $endpoints = $told['endpoints'] ?? [];
        $own = array_filter($endpoints, static fn (array $endpoint) => ($endpoint['name'] ?? '') === '');
        return [...$own, ...$endpoints][0] ?? throw new WayFailed('an entry is damaged');
    }

    public static function master(array $told, Freshness $freshness): Master
    {
        return new Master(
            $told['id'],
            $told['peerAddress'],
            $told['connectedAt'],
            array_map(self::service(...), $told['services'] ?? []),
            $told['ways'] ?? 0,
            $told['outstanding'] ?? 0,
            $freshness,
        );
    }

    private static function service(array $told): Service
    {
        return new Service($told['name'], $told['version'], $told['metadata'] ?? []);
    }

    private static function endpoint(array $told): Endpoint
    {
        return new Endpoint($told['name'] ?? '', $told['protocol'] ?? '', $told['host'], $told['port']);
    }

    private static function withholding(?array $told): ?Withholding
    {
        return $told === null ? null : new Withholding($told['since'], $told['endsAt'], $told['reason']);
    }

    private static function held(array $told): Held
    {
        $probe = Probe::tryFrom($told['probe']) ?? Probe::Unknown;
        return new Held($told['since'], $told['endsAt'], $probe, $told['passedOver'] ?? false);
    }

    private static function provenance(array $told): Provenance
    {
        [$path, $master] = [$told['path'] ?? null, $told['masterId'] ?? null];
        return new Provenance($told['source'], $path, $master, $told['decoder'], $told['sinceRevision']);
    }
}
