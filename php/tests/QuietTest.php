<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\RosterException;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\SharedFile;
use Roster\Timeouts;

/** Whatever transport fails, the application's error handler hears nothing of it. */
final class QuietTest extends TestCase
{
    protected function setUp(): void
    {
        set_error_handler(static fn (int $level, string $message) => throw new \ErrorException($message, 0, $level));
    }

    protected function tearDown(): void
    {
        restore_error_handler();
    }

    /** @dataProvider files */
    public function testAFileThatCannotBeReadIsNoWarning(\Closure $make): void
    {
        $folder = new Folder();
        $path = "$folder->path/shared.mdb";
        $make($path);
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'of the socket'])]]);
        self::assertSame('of the socket', Patient::local($fake->address, '', $path)->get('/a')->data);
        self::assertHandlerIsBack();
    }

    public static function files(): array
    {
        return [
            'none' => [static fn (string $path) => null],
            'none, nor its folder' => [static fn (string $path) => rmdir(dirname($path)) && mkdir(dirname($path))],
            'empty' => [static fn (string $path) => touch($path)],
            'no LMDB' => [static fn (string $path) => file_put_contents($path, str_repeat('x', 100_000))],
            'a folder' => [static fn (string $path) => mkdir($path)],
            'a link to itself' => [static fn (string $path) => symlink($path, $path)],
            'a lock file that is a folder' => [static function (string $path): void {
                $file = new SharedFile([]);
                copy($file->path, $path);
                mkdir("$path-lock");
            }],
        ];
    }

    public function testAFileThatGoesWhileItIsReadIsNoWarning(): void
    {
        $file = new SharedFile(['/a' => 'x']);
        $roster = Client::local('/none', '', $file->path);
        self::assertSame('x', $roster->get('/a')->data);
        $file->set(['/a' => 'y'], silenceMs: 10_000);
        unlink($file->path);
        self::assertFails($roster);
        self::assertHandlerIsBack();
    }

    /** @dataProvider addresses */
    public function testASidecarThatCannotBeReachedIsNoWarning(string $socket, string $tcp): void
    {
        self::assertFails(Client::local($socket, $tcp, ''));
        self::assertHandlerIsBack();
    }

    public static function addresses(): array
    {
        return [
            'no socket' => ['/none', ''],
            'no socket by that name' => [__FILE__, ''],
            'too long a path' => ['/' . str_repeat('x', 200), ''],
            'nobody listens' => ['', '127.0.0.1:1'],
            'no such host' => ['', 'nowhere.invalid:9090'],
            'no such port' => ['', '127.0.0.1:99999'],
        ];
    }

    /** @dataProvider answers */
    public function testAStrangeAnswerIsNoWarning(array $answer): void
    {
        $fake = new FakeSidecar([[$answer]]);
        self::assertFails(Client::local($fake->address, '', '', timeouts: new Timeouts(readMs: 100)));
        self::assertHandlerIsBack();
    }

    public static function answers(): array
    {
        $nothing = Answer::nodes([]);
        $bytes = static fn (string $bytes) => ['body' => base64_encode($bytes)] + $nothing;
        $reply = "\x0c\0\0";
        return [
            'cut off' => [Answer::nodes(['/a' => 'x'], cut: 30, close: true)],
            'late' => [Answer::nodes([], pauseMs: 400)],
            'empty' => [$bytes('')],
            'without a result' => [$bytes("\0")],
            'without nodes' => [$bytes("$reply\0\0")],
            'a node that is none' => [$bytes("$reply\x0d\0\1\x0b\x0c\0\0\0\1\0\0\0\2/a\0\0\0")],
            'a type that is none' => [$bytes("\x7f\0\0")],
            'more than there is' => [$bytes("$reply\x0d\0\1\x0b\x0c\x7f\xff\xff\xff")],
        ];
    }

    public function testAConnectionThatIsResetIsNoWarning(): void
    {
        $server = stream_socket_server('tcp://127.0.0.1:0');
        $address = stream_socket_get_name($server, false);
        $child = pcntl_fork();
        if ($child === 0) {
            for ($served = 0; $served < 2; $served++) {
                $client = socket_import_stream(stream_socket_accept($server));
                socket_recv($client, $head, 4, MSG_WAITALL);
                // It closes at once, with bytes unread: so the other end is reset.
                socket_set_option($client, SOL_SOCKET, SO_LINGER, ['l_onoff' => 1, 'l_linger' => 0]);
                socket_close($client);
            }
            posix_kill(getmypid(), SIGKILL);
        }
        $roster = Patient::local('', $address, '');
        self::assertFails($roster);
        self::assertFails($roster);
        pcntl_waitpid($child, $status);
        self::assertHandlerIsBack();
    }

    public function testWhatASignalHandlerDoesWrongMeanwhileIsHeard(): void
    {
        $fake = new FakeSidecar([[Answer::nodes([], pauseMs: 2_000)]]);
        $before = pcntl_async_signals(true);
        pcntl_signal(SIGALRM, static fn () => trigger_error('of the application', E_USER_WARNING));
        pcntl_alarm(1);
        try {
            $this->expectException(\ErrorException::class);
            $this->expectExceptionMessage('of the application');
            Client::local($fake->address, '', '', timeouts: new Timeouts(readMs: 5_000, totalMs: 5_000))->get('/a');
        } finally {
            pcntl_signal(SIGALRM, SIG_DFL);
            pcntl_async_signals($before);
        }
    }

    private static function assertFails(Client $roster): void
    {
        try {
            $roster->get('/a');
            self::fail('it answered');
        } catch (RosterException $failure) {
            self::assertNotSame('', $failure->getMessage());
        }
    }

    /** That the application's handler is in place again, and that nothing is left for it to find at the end. */
    private static function assertHandlerIsBack(): void
    {
        try {
            trigger_error('of the application', E_USER_NOTICE);
            self::fail('the handler is gone');
        } catch (\ErrorException $heard) {
            self::assertSame('of the application', $heard->getMessage());
        }
    }
}
