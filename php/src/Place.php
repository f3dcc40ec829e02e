<?php

declare(strict_types=1);

namespace Roster;

/**
 * Where a sidecar is found when nobody says: in the system's folder, else in the user's.
 *
 * @internal
 */
final class Place
{
    private const SYSTEM = '/run/roster';
    private const SOCKET = 'roster.sock';
    private const SHARED = 'shared.mdb';

    public static function socket(): string
    {
        return self::folder() . '/' . self::SOCKET;
    }

    /** The shared file lies beside the socket. */
    public static function shared(string $socket): string
    {
        return ($socket === '' ? self::folder() : dirname($socket)) . '/' . self::SHARED;
    }

    /** The first one whose sidecar answers; else the first in which one has been. */
    private static function folder(): string
    {
        $found = array_values(array_filter([self::SYSTEM, ...self::userFolders()], self::isIn(...)));
        // A socket that a dead sidecar left hides no living one. Where there is one place, nothing is to be decided.
        $live = count($found) > 1 ? array_values(array_filter($found, self::isLive(...))) : [];
        return $live[0] ?? $found[0] ?? self::SYSTEM;
    }

    private static function isIn(string $folder): bool
    {
        $exists = static fn () => file_exists("$folder/" . self::SOCKET) || file_exists("$folder/" . self::SHARED);
        return Quiet::run($exists);
    }

    private static function isLive(string $folder): bool
    {
        $connect = static fn () => stream_socket_client("unix://$folder/" . self::SOCKET, timeout: 0.05);
        return (bool) Quiet::run($connect);
    }

    /** @return list<string> those that no other user can have put there, as one can in /tmp */
    private static function userFolders(): array
    {
        if (!function_exists('posix_geteuid')) {
            return [];
        }
        $user = posix_geteuid();
        $logins = array_filter([(string) getenv('XDG_RUNTIME_DIR'), "/run/user/$user"], self::isOwn(...));
        $folders = [...array_map(static fn ($login) => "$login/roster", $logins), "/tmp/roster-$user"];
        return array_values(array_filter(array_unique($folders), self::isOwn(...)));
    }

    /** Whether a folder is this user's, and nobody else's to write. */
    private static function isOwn(string $folder): bool
    {
        $found = str_starts_with($folder, '/') ? Quiet::run(static fn () => lstat($folder)) : false;
        return $found && ($found['mode'] & 0170022) === 0040000 && $found['uid'] === posix_geteuid();
    }
}
