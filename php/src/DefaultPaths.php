<?php

declare(strict_types=1);

namespace Roster;

/**
 * Where a sidecar is found by default: in the system's folder and in the user's.
 *
 * @internal
 */
final class DefaultPaths
{
    private const SYSTEM = '/run/roster';
    private const SOCKET = 'roster.sock';
    private const SHARED = 'shared.mdb';

    /**
     * The sockets to try, in order: only that of the first folder whose sidecar answers. If none answers, those of all
     * folders, beginning with those that have a readable shared file.
     *
     * @return non-empty-list<string>
     */
    public static function sockets(): array
    {
        $folders = [self::SYSTEM, ...array_filter(self::userFolders(), self::isOwn(...))];
        $found = array_values(array_filter($folders, self::isIn(...)));
        // A dead sidecar's socket does not hide a living one. With only one place, there is nothing to decide.
        if (count($found) > 1) {
            foreach ($found as $folder) {
                if (self::isLive($folder)) {
                    return [self::socket($folder)];
                }
            }
            $found = [...array_filter($found, self::isReadable(...)), ...$found];
        }
        return array_map(self::socket(...), array_values(array_unique([...$found, ...$folders])));
    }

    /** @return array<string, string> why sockets in this user's folders are not tried */
    public static function passedOver(): array
    {
        if (!function_exists('posix_geteuid')) {
            return [self::socket('/tmp/roster-UID') => 'without PHP\'s extension posix nobody knows which folders are own'];
        }
        $isForeign = static fn (string $folder) => !self::isOwn($folder);
        $sockets = array_map(self::socket(...), array_filter(self::userFolders(), $isForeign));
        return array_fill_keys($sockets, 'its folder is not there, or another user may write it');
    }

    /** The shared file next to the socket. */
    public static function shared(string $socket): string
    {
        return dirname($socket) . '/' . self::SHARED;
    }

    private static function socket(string $folder): string
    {
        return "$folder/" . self::SOCKET;
    }

    private static function isIn(string $folder): bool
    {
        $exists = static fn () => file_exists(self::socket($folder)) || file_exists("$folder/" . self::SHARED);
        return Quiet::run($exists);
    }

    private static function isReadable(string $folder): bool
    {
        return Quiet::run(static fn () => is_readable("$folder/" . self::SHARED));
    }

    private static function isLive(string $folder): bool
    {
        $connect = static fn () => stream_socket_client('unix://' . self::socket($folder), timeout: 0.05);
        return (bool) Quiet::run($connect);
    }

    /** @return list<string> to be trusted only if they are `isOwn`: another user can create one in /tmp */
    private static function userFolders(): array
    {
        if (!function_exists('posix_geteuid')) {
            return [];
        }
        $user = posix_geteuid();
        $logins = array_filter([(string) getenv('XDG_RUNTIME_DIR'), "/run/user/$user"], self::isOwn(...));
        $folders = [...array_map(static fn ($login) => "$login/roster", $logins), "/tmp/roster-$user"];
        return array_values(array_unique($folders));
    }

    /** Whether a folder is this user's, and only writable by that user. */
    private static function isOwn(string $folder): bool
    {
        $found = str_starts_with($folder, '/') ? Quiet::run(static fn () => lstat($folder)) : false;
        return $found && ($found['mode'] & 0170022) === 0040000 && $found['uid'] === posix_geteuid();
    }
}
