<?php

declare(strict_types=1);

namespace Roster\Worker;

use Roster\Exception\InvalidRequest;
use Roster\Quiet;

/**
 * What a sidecar passes to the processes that it starts. Each part is taken once: children of the process do not
 * inherit it.
 *
 * @internal
 */
final class Environment
{
    private const FIRST_LISTENER = 3;
    /** The most descriptors that can be passed on. */
    private const MAX_LISTENERS = 1_000;

    /** @return resource the connection to the sidecar */
    public static function channel(): mixed
    {
        $number = self::take('ROSTER_CHANNEL') ?? throw new InvalidRequest(
            'ROSTER_CHANNEL',
            'it is not set: no sidecar has started this process; use Worker::connect()',
        );
        // Output would go there.
        if (!ctype_digit($number) || (int) $number < 3) {
            throw new InvalidRequest('ROSTER_CHANNEL', "`$number` is no descriptor of a channel");
        }
        return self::socket((int) $number) ?? throw new InvalidRequest(
            'ROSTER_CHANNEL',
            "the descriptor $number is no socket: something between the sidecar and this process has closed it",
        );
    }

    /** The group and number of this process. */
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

    /** @return array<resource> by name; an unnamed one as `fd` and its number */
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

    /** @return resource on which connections are handed to this process */
    public static function connections(): mixed
    {
        return self::way(
            'ROSTER_CONNECTIONS',
            'no sidecar hands connections to this process; set `accept = "sidecar"` of its `[[worker]]`',
        );
    }

    /** @return resource on which this process requests sockets */
    public static function requests(): mixed
    {
        return self::way('ROSTER_REQUESTS', 'no sidecar listens for this process; set `may_listen` of its `[[worker]]`');
    }

    /** @return resource on which descriptors arrive */
    private static function way(string $variable, string $cure): mixed
    {
        $number = self::take($variable) ?? throw new InvalidRequest($variable, "it is not set: $cure");
        if (!function_exists('socket_recvmsg')) {
            throw new InvalidRequest($variable, 'PHP takes no descriptors without its extension sockets');
        }
        return self::socket((int) $number) ?? throw new InvalidRequest($variable, "the descriptor $number is no socket");
    }

    /** Whether connections are handed to this process, and not received yet. */
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
        // If several processes are woken by one connection, all but one find none.
        stream_set_blocking($stream, false);
        return $stream;
    }
}
