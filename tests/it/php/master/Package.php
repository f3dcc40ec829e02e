<?php
// The same as Master.php by the unmodified package reactphp-x/register-center, where Composer has installed it.
require getenv('ROSTER_REGISTER_CENTER');

use React\EventLoop\Loop;
use ReactphpX\RegisterCenter\Master as Package;
use ReactphpX\TunnelStream\TunnelStream;

class Master
{
    public static string $token;
    private static Package $package;

    public static function join(string $host, int $port): void
    {
        self::package()->connectViaConnector($host, $port);
    }

    public static function leave(string $host, int $port): void
    {
        self::package()->removeConnection($host, $port);
    }

    public static function announce(array $message): void
    {
        foreach (self::package()->getConnectedCenters() as $id) {
            self::package()->getTunnelStream($id)->write($message);
        }
    }

    public static function run(): void
    {
        Loop::run();
    }

    private static function package(): Package
    {
        if (!isset(self::$package)) {
            TunnelStream::$secretKey = getenv('CLOSURE_KEY') ?: null;
            self::$package = new Package(retryDelay: 0.2);
            self::$package->on('connect', self::connected(...));
            self::$package->on('close', self::closed(...));
        }
        return self::$package;
    }

    private static function connected(TunnelStream $tunnel): void
    {
        $tunnel->write(['cmd' => 'auth', 'token' => self::$token]);
        $tunnel->on('cmd', function ($command, $message) {
            match ($command) {
                'auth-success' => print("accepted\n"),
                'auth-failed' => print("refused: {$message['message']}\n"),
                'register' => array_map(fn ($at) => self::join($at['host'], $at['port']), $message['registers']),
                'remove' => array_map(fn ($at) => self::leave($at['host'], $at['port']), $message['registers']),
                default => print('command: ' . json_encode($message) . "\n"),
            };
        });
    }

    private static function closed(string $id, string $url): void
    {
        echo "$url lost\n";
        [$host, $port] = [substr($url, 0, strrpos($url, ':')), (int) substr(strrchr($url, ':'), 1)];
        if (getenv('REJOIN') && str_contains($host, ':')) {
            Loop::addTimer(1.0, function () use ($host, $port) {
                self::leave($host, $port);
                self::join($host, $port);
            });
        }
    }
}
