<?php

declare(strict_types=1);

namespace Roster;

use Roster\Exception\TransportFailed;

/**
 * The user that the sidecar runs as: anything another user put in its place is ignored.
 *
 * @internal
 */
final class Owner
{
    private ?int $uid = null;

    public function __construct(public readonly string|int $user)
    {
    }

    /**
     * Checks that a file or a Unix socket belongs to this user.
     *
     * @throws TransportFailed
     */
    public function checkFile(string $path): void
    {
        clearstatcache(true, $path);
        $this->check(fileowner($path));
    }

    /**
     * Checks that the owner of a file is this user.
     *
     * @param int|false $owner the uid; false: there is no such file
     * @throws TransportFailed
     */
    public function check(int|false $owner): void
    {
        if ($owner !== $this->uid()) {
            throw new TransportFailed($owner === false ? 'there is none' : "it belongs to uid $owner, not to `$this->user`");
        }
    }

    /**
     * Makes the kernel report who sends what arrives over a Unix socket, as far as PHP can ask for that.
     *
     * @param resource $stream
     * @return ?\Socket null: PHP has no sockets extension
     */
    public static function socket($stream): ?\Socket
    {
        $socket = function_exists('socket_import_stream') ? socket_import_stream($stream) : null;
        if ($socket) {
            socket_set_option($socket, SOL_SOCKET, SO_PASSCRED, 1);
        }
        return $socket ?: null;
    }

    /**
     * Checks that this user sent what arrives next, for which it waits this long.
     *
     * @return bool whether anything arrived, even if just the end of the connection
     * @throws TransportFailed
     */
    public function checkSender(\Socket $socket, int $us): bool
    {
        $patience = ['sec' => intdiv($us, 1_000_000), 'usec' => $us % 1_000_000];
        socket_set_option($socket, SOL_SOCKET, SO_RCVTIMEO, $patience);
        $message = ['buffer_size' => 1, 'controllen' => socket_cmsg_space(SOL_SOCKET, SCM_CREDENTIALS)];
        $came = socket_recvmsg($socket, $message, MSG_PEEK);
        if ($came !== 1) {
            return $came === 0 || !in_array(socket_last_error($socket), [SOCKET_EAGAIN, SOCKET_EINTR], true);
        }
        $sender = $message['control'][0]['data']['uid'] ?? -1;
        return $sender === $this->uid() ?: throw new TransportFailed("uid $sender answers, not `$this->user`", isSent: true);
    }

    private function uid(): int
    {
        return $this->uid ??= is_int($this->user) ? $this->user : self::named($this->user);
    }

    private static function named(string $name): int
    {
        if (!function_exists('posix_getpwnam')) {
            throw new TransportFailed("PHP's posix extension is not there, so `user` must be a number, not `$name`");
        }
        return posix_getpwnam($name)['uid'] ?? throw new TransportFailed("there is no user `$name`");
    }
}
