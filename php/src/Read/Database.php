<?php

declare(strict_types=1);

namespace Roster\Read;

use Roster\Exception\WayFailed;

/**
 * The LMDB file, opened once by each process.
 *
 * Under a web server the handle outlives the request (`dba_popen`). A process that was forked opens its own: LMDB's
 * handles do not survive a fork.
 *
 * @internal
 */
final class Database
{
    private const FORMAT = '1';

    /** LMDB's keys have at most 511 bytes. A longer path goes by its digest. */
    private const LONGEST_PATH = 500;

    /** @var array<string, resource> by process and file: LMDB must not open a file twice in one process */
    private static array $handles = [];

    public function __construct(private readonly string $file)
    {
    }

    /** The key of one kind of entry of a path. */
    public static function key(string $kind, string $path): string
    {
        return strlen($path) <= self::LONGEST_PATH ? $kind . $path : "$kind#" . hash('sha256', $path);
    }

    /**
     * @return resource for `dba_fetch`
     * @throws WayFailed
     */
    public function handle()
    {
        return self::$handles[$this->id()] ??= $this->open();
    }

    /** The next one to ask for a handle gets a new one; whether there was one to close. */
    public function close(): bool
    {
        $handle = self::$handles[$this->id()] ?? null;
        unset(self::$handles[$this->id()]);
        if ($handle !== null) {
            dba_close($handle);
        }
        return $handle !== null;
    }

    private function id(): string
    {
        return PHP_SAPI === 'cli' ? getmypid() . $this->file : $this->file;
    }

    /** @return resource */
    private function open()
    {
        if (!function_exists('dba_handlers') || !in_array('lmdb', dba_handlers(), true)) {
            throw new WayFailed("PHP's dba extension with lmdb is not there (Debian: php-dba)");
        }
        error_clear_last();
        $handle = PHP_SAPI === 'cli' ? @dba_open($this->file, 'r', 'lmdb') : @dba_popen($this->file, 'r', 'lmdb');
        if ($handle === false) {
            throw new WayFailed(self::reason('it cannot be opened'));
        }
        $format = @dba_fetch('meta/format', $handle);
        if ($format !== self::FORMAT) {
            $reason = $format === false ? self::reason('it does not say its format') : "its format is $format, not 1";
            dba_close($handle);
            throw new WayFailed($reason);
        }
        return $handle;
    }

    /** What PHP warned of, if it did. */
    public static function reason(string $otherwise): string
    {
        $message = error_get_last()['message'] ?? $otherwise;
        return preg_replace('/^dba_\w+\(\): /', '', $message);
    }
}
