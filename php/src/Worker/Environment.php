<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\InvalidRequest;
use Roster\Quiet;

/**
 * What a sidecar gives the processes that it starts. Each is taken once: what the process starts itself inherits none.
 *
 * @internal
 */
final class Environment
{
    private const FIRST_LISTENER = 3;
    /** No more descriptors can be passed on. */
    private const MAX_LISTENERS = 1_000;

    /** @return resource the connection to the sidecar */
    public static function channel(): mixed
    {
        $number = self::take('ROSTER_CHANNEL') ?? throw new InvalidRequest(
            'ROSTER_CHANNEL',
            'it is not set: no sidecar has started this process; use Worker::connect()',
        );
        // What is echoed would go there.
        if (!ctype_digit($number) || (int) $number < 3) {
            throw new InvalidRequest('ROSTER_CHANNEL', "`$number` is no descriptor of a channel");
        }
        return self::socket((int) $number) ?? throw new InvalidRequest(
            'ROSTER_CHANNEL',
            "the descriptor $number is no socket: something between the sidecar and this process has closed it",
        );
    }

    /** Which process of which group this is. */
    public static function worker(): string
    {
        return self::take('ROSTER_WORKER') ?? 'worker/' . getmypid();
    }

    /** @return array<mixed> */
    public static function params(): array
    {
        $params = json_decode(self::take('ROSTER_PARAMS') ?? '[]', true);
        return is_array($params) ? $params : throw new InvalidRequest('ROSTER_PARAMS', 'it is no JSON object');
    }

    /** @return array<resource> by name; one without a name of its own as `fd` and its number */
    public static function listeners(): array
    {
        [$process, $count] = [self::take('LISTEN_PID'), self::take('LISTEN_FDS')];
        $names = explode(':', self::take('LISTEN_FDNAMES') ?? '');
        if ($process !== (string) getmypid()) {
            return [];
        }
        $listeners = [];
        for ($index = 0; $index < min((int) $count, self::MAX_LISTENERS); $index++) {
            $number = self::FIRST_LISTENER + $index;
            $name = $names[$index] ?? '';
            $key = $name === '' || isset($listeners[$name]) ? "fd$number" : $name;
            $listeners[$key] = self::socket($number)
                ?? throw new InvalidRequest('LISTEN_FDS', "the descriptor $number is no socket");
        }
        return $listeners;
    }

    /** @return resource by which connections are handed to this process */
    public static function connections(): mixed
    {
        return self::way(
            'ROSTER_CONNECTIONS',
            'no sidecar hands connections to this process; set `accept = "sidecar"` of its `[[worker]]`',
        );
    }

    /** @return resource by which this process asks for sockets */
    public static function requests(): mixed
    {
        return self::way('ROSTER_REQUESTS', 'no sidecar listens for this process; set `may_listen` of its `[[worker]]`');
    }

    /** @return resource by which descriptors come */
    private static function way(string $variable, string $cure): mixed
    {
        $number = self::take($variable) ?? throw new InvalidRequest($variable, "it is not set: $cure");
        if (!function_exists('socket_recvmsg')) {
            throw new InvalidRequest($variable, 'PHP takes no descriptors without its extension sockets');
        }
        return self::socket((int) $number) ?? throw new InvalidRequest($variable, "the descriptor $number is no socket");
    }

    /** Whether connections are handed to this process, and nobody takes them yet. */
    public static function hasConnections(): bool
    {
        return getenv('ROSTER_CONNECTIONS') !== false;
    }

    private static function take(string $variable): ?string
    {
        $value = getenv($variable);
        putenv($variable);
        unset($_ENV[$variable], $_SERVER[$variable]);
        return $value === false ? null : $value;
    }

    /** @return ?resource */
    private static function socket(int $descriptor): mixed
    {
        $stream = Quiet::run(static fn () => fopen("php://fd/$descriptor", 'r+'));
        if ($stream === false || !str_contains(stream_get_meta_data($stream)['stream_type'], 'socket')) {
            return null;
        }
        // Of several processes that are woken by one connection, all but one find none.
        stream_set_blocking($stream, false);
        return $stream;
    }
}
