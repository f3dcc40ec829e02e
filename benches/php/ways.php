<?php

// The ways to the data of a node. Each is a function of a path; what it needs is loaded when it is first called.

declare(strict_types=1);

use Roster\Bench\ZooKeeper;
use Roster\Client;
use Roster\Timeouts;

/**
 * @param array{socket: string, tcp: string, shared: string, array: string, zookeeper: string} $places
 * @return array<string, callable(string): string>
 */
function ways(array $places): array
{
    $thrift = static function (string $path, string $socket, string $tcp, bool $isPersistent): string {
        require_once __DIR__ . '/../../php/autoload.php';
        // A busy machine is slow, and no reason to give up.
        $patient = new Timeouts(20_000, 20_000, 20_000);
        return Client::local($socket, $tcp, '', timeouts: $patient, persistent: $isPersistent)->get($path)->data;
    };
    return [
        'no lookup' => basename(...),
        'dba_fetch' => static function (string $path) use ($places): string {
            static $file;
            $file ??= dba_popen($places['shared'], 'r', 'lmdb');
            return dba_fetch("node$path", $file);
        },
        'shared file' => static function (string $path) use ($places): string {
            static $roster;
            if ($roster === null) {
                require_once __DIR__ . '/../../php/autoload.php';
                // No other way, so that it is this one that is measured.
                $roster = Client::local('', '', $places['shared']);
            }
            return $roster->get($path)->data;
        },
        'PHP array' => static fn (string $path) => (include $places['array'])['nodes'][$path],
        'Thrift, socket, persistent' => static fn (string $path) => $thrift($path, $places['socket'], '', true),
        'Thrift, socket, fresh' => static fn (string $path) => $thrift($path, $places['socket'], '', false),
        'Thrift, TCP, fresh' => static fn (string $path) => $thrift($path, '', $places['tcp'], false),
        'ZooKeeper session' => static function (string $path) use ($places): string {
            require_once __DIR__ . '/zookeeper.php';
            $session = new ZooKeeper($places['zookeeper']);
            $data = $session->data($path);
            $session->close();
            return $data;
        },
    ];
}
