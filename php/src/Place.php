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

    private static function folder(): string
    {
        $user = self::userFolder();
        return !self::isIn(self::SYSTEM) && $user !== null && self::isIn($user) ? $user : self::SYSTEM;
    }

    private static function isIn(string $folder): bool
    {
        $exists = static fn () => file_exists("$folder/" . self::SOCKET) || file_exists("$folder/" . self::SHARED);
        return Quiet::run($exists);
    }

    /** In /tmp, another user may have put something under our name. */
    private static function userFolder(): ?string
    {
        if (!function_exists('posix_getuid')) {
            return null;
        }
        $runtime = (string) getenv('XDG_RUNTIME_DIR');
        $folder = str_starts_with($runtime, '/') ? "$runtime/roster" : '/tmp/roster-' . posix_getuid();
        $found = Quiet::run(static fn () => lstat($folder));
        return $found && ($found['mode'] & 0170000) === 0040000 && $found['uid'] === posix_getuid() ? $folder : null;
    }
}
