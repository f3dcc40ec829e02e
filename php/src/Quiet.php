<?php

declare(strict_types=1);

namespace Roster;

/**
 * Keeps this package's warnings from the application's error handler: failures here are handled, and reported as such.
 *
 * The operator `@` does not: handlers are called all the same, and since PHP 8 few of them notice that they should not
 * be.
 *
 * @internal
 */
final class Quiet
{
    private const OWN = __DIR__ . '/';

    /** The last warning. */
    public static string $warning = '';

    private static ?\Closure $handler = null;
    private static mixed $application = null;

    /** Until `end`, which must be called in any case. */
    public static function begin(): void
    {
        $before = set_error_handler(self::$handler ??= self::take(...));
        if ($before !== self::$handler) {
            self::$application = $before;
        }
    }

    public static function end(): void
    {
        restore_error_handler();
    }

    public static function run(callable $work): mixed
    {
        self::begin();
        try {
            return $work();
        } finally {
            self::end();
        }
    }

    /** While a request waits, the application's signal handlers run: their errors are for its own handler. */
    private static function take(int $level, string $message, string $file = '', int $line = 0): bool
    {
        // The library may be older than this PHP, which then reports deprecations when it loads a class.
        if ($level === E_DEPRECATED || str_starts_with($file, self::OWN)) {
            self::$warning = $message;
            return true;
        }
        return self::$application !== null && (self::$application)($level, $message, $file, $line) !== false;
    }
}
