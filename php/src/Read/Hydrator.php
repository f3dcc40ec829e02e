<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Endpoint;
use Roster\Exception\TransportFailed;
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
 * Creates this package's values from the records of the shared file.
 *
 * @internal
 */
final class Hydrator
{
    public static function instance(array $record, Freshness $freshness): Instance
    {
        return new Instance(
            $record['serviceName'],
            $record['version'],
            $record['group'] ?? '',
            $record['zone'] ?? '',
            $record['weight'] ?? 100,
            $record['metadata'] ?? [],
            InstanceState::tryFrom($record['state']) ?? InstanceState::Unknown,
            array_map(self::endpoint(...), $record['endpoints'] ?? []),
            $record['masterId'] ?? null,
            $record['outstanding'] ?? 0,
            array_map(self::provenance(...), $record['provenance'] ?? []),
            $freshness,
            self::withholding($record['ejected'] ?? null),
            self::withholding($record['drained'] ?? null),
            isset($record['held']) ? self::held($record['held']) : null,
        );
    }

    /** The service's own endpoint, as in the reply to `resolve`. */
    public static function resolved(array $record, string $service, Freshness $freshness, bool $isProtected): Resolved
    {
        ['host' => $host, 'port' => $port] = $endpoint = self::own($record);
        if (!is_string($host) || !is_int($port)) {
            throw new TransportFailed('an entry is damaged');
        }
        return new Resolved($host, $port, $endpoint['protocol'] ?? '', null, $freshness, $isProtected, $service);
    }

    /** The order of equal ones: by address, then by their ids in the sidecar. */
    public static function compare(array $one, array $other): int
    {
        return strcmp(self::address(self::own($one)), self::address(self::own($other)))
            ?: strcmp(self::id($one), self::id($other));
    }

    private static function id(array $record): string
    {
        $endpoint = $record['endpoints'][0];
        $protocol = $endpoint['protocol'] ?? '';
        [$group, $version] = [$record['group'] ?? '', $record['metadata']['version'] ?? ''];
        $variant = is_string($version) && "$group$version" !== '' ? "?group=$group&version=$version" : '';
        return ($protocol === '' ? '' : "$protocol://") . self::address($endpoint) . $variant;
    }

    private static function address(array $endpoint): string
    {
        ['host' => $host, 'port' => $port] = $endpoint;
        return str_contains($host, ':') ? "[$host]:$port" : "$host:$port";
    }

    /** The service's own endpoint. */
    private static function own(array $record): array
    {
        $endpoints = $record['endpoints'] ?? [];
        foreach ($endpoints as $endpoint) {
            if (($endpoint['name'] ?? '') === '') {
                return $endpoint;
            }
        }
        return $endpoints[0] ?? throw new TransportFailed('an entry is damaged');
    }

    public static function master(array $record, Freshness $freshness): Master
    {
        return new Master(
            $record['id'],
            $record['peerAddress'],
            $record['connectedAt'],
            array_map(self::service(...), $record['services'] ?? []),
            $record['routes'] ?? 0,
            $record['outstanding'] ?? 0,
            $freshness,
        );
    }

    private static function service(array $record): Service
    {
        return new Service($record['name'], $record['version'], $record['metadata'] ?? []);
    }

    private static function endpoint(array $record): Endpoint
    {
        return new Endpoint($record['name'] ?? '', $record['protocol'] ?? '', $record['host'], $record['port']);
    }

    private static function withholding(?array $record): ?Withholding
    {
        return $record === null ? null : new Withholding($record['since'], $record['endsAt'], $record['reason']);
    }

    private static function held(array $record): Held
    {
        $probe = Probe::tryFrom($record['probe']) ?? Probe::Unknown;
        return new Held($record['since'], $record['endsAt'], $probe, $record['passedOver'] ?? false);
    }

    private static function provenance(array $record): Provenance
    {
        [$path, $master] = [$record['path'] ?? null, $record['masterId'] ?? null];
        return new Provenance($record['source'], $path, $master, $record['decoder'], $record['sinceRevision']);
    }
}
