<?php
// The tests' own master, on stand-ins.
require __DIR__ . '/react.php';
require __DIR__ . '/classes.php';
require __DIR__ . '/tunnel.php';
require __DIR__ . '/Connection.php';

use React\EventLoop\Loop;

/** All that a master waits for. */
class Master
{
    /** The connections to registers, by their addresses. */
    public static array $connections = [];
    public static string $token;

    public static function join(string $host, int $port): void
    {
        self::$connections["$host:$port"] ??= new Connection($host, $port, self::$token);
    }

    public static function leave(string $host, int $port): void
    {
        (self::$connections["$host:$port"] ?? null)?->leave();
        unset(self::$connections["$host:$port"]);
    }

    /** What an application of the package does about registers by TLS or IPv6, with REJOIN in its environment. */
    public static function closed(string $host, int $port): void
    {
        if (getenv('REJOIN')) {
            Loop::addTimer(1.0, function () use ($host, $port) {
                self::leave($host, $port);
                self::join($host, $port);
            });
        }
    }

    public static function announce(array $message): void
    {
        foreach (self::$connections as $connection) {
            $connection->say($message);
        }
    }

    public static function run(): never
    {
        Loop::run(function (int $micros) {
            $connected = array_filter(self::$connections, fn ($connection) => $connection->socket());
            $read = array_map(fn ($connection) => $connection->socket(), $connected);
            $write = array_intersect_key($read, array_filter($connected, fn ($connection) => $connection->hasUnsent()));
            $none = null;
            $read ? stream_select($read, $write, $none, 0, $micros) : usleep($micros);
            foreach ($write as $address => $_) {
                $connected[$address]->write();
            }
            foreach ($read as $address => $_) {
                // One that was read before it may have left this one.
                (self::$connections[$address] ?? null)?->read();
            }
        });
    }
}
